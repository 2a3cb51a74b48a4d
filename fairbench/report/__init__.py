"""Results for readers: text for terminals in `text`, pages in `html`, and the figures that both use."""

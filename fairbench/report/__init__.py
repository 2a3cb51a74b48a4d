"""What people look at: text for terminals in `text`, pages in `html`, and the figures that both draw from."""

"""The suites that come with the package, one YAML file each; `fairbench.config.load_suite` opens them."""

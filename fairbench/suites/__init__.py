"""The suites that come with the package, one YAML file each; `fairbench.suites.suite.load_suite` opens them."""

"""From a suite to results: the plan, each run of it, and the launchers that execute them."""

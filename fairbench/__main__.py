"""`python -m fairbench`, which is what torchrun is given."""

from fairbench.cli import main

if __name__ == "__main__":
    main()

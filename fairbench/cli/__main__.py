"""`python -m fairbench.cli`."""

from fairbench.cli import main

if __name__ == "__main__":
    main()

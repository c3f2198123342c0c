"""`python -m hermes_lb`: see `hermes_lb.cli`."""

from hermes_lb.cli import main

if __name__ == "__main__":
    main()

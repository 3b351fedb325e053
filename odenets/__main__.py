"""`python -m odenets ...` and `torchrun -m odenets train ...`."""

from odenets.cli import main

if __name__ == "__main__":
    main()

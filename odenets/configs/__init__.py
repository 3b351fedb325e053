"""Hydra config groups; each folder is named like the code folder it configures."""

if __name__ != "odenets.configs":
    raise ImportError(
        f"import odenets.configs, not {__name__}: the top-level folder 'configs' is a link into the package."
    )

"""Whole models, measured: equinet alone or beside mace-torch with the same weights. See ``equinet bench model --help``."""

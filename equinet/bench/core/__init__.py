"""Parts that all benches share: timing in turns, peak memory, the machine, records of rows, reports and pictures."""

# Names of whole models in tables.
EQUINET = "equinet"
EAGER, CUEQUIVARIANCE, COMPILED = "mace-torch", "mace-torch, cuEquivariance", "mace-torch, compiled"

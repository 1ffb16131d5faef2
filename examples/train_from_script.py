"""Train a potential from Python: frames, model, loss, optimiser, and a loop that builds none of them."""

import sys

import torch

from equinet import Potential, save
from equinet.datasets import SAMPLE, GraphLoader, measure, read_frames, split_isolated, to_graphs
from equinet.graph import collate
from equinet.models import MACE, MACEConfig
from equinet.nn import EnergyScale
from equinet.train import Data, Loss, TrainConfig, errors, fit, predict

torch.manual_seed(0)
architecture = MACEConfig(channels=16, max_l=1, sh_degree=2, cutoff=4.5)
training = TrainConfig(epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 10)

frames, isolated = split_isolated(read_frames(SAMPLE["train"]))
train = to_graphs(frames, architecture.cutoff)
valid = to_graphs(read_frames(SAMPLE["valid"]), architecture.cutoff)
statistics = measure(frames, isolated, train)

model = MACE(architecture, statistics.elements, statistics.avg_num_neighbors)
scale = EnergyScale(statistics.reference, statistics.scale, statistics.shift)
potential = Potential(model, scale)
potential.calibrate(collate(train[:32]))
print(potential)

data = Data(GraphLoader(train, training.batch_size, seed=training.seed), GraphLoader(valid, batch_size=50))
optimizer = torch.optim.Adam(potential.parameters(), amsgrad=True)
state = fit(potential, data, Loss(energy=1.0, forces=100.0), optimizer, training)

for record in state.history:
    print(f"epoch {record['epoch']:3d}  forces RMSE {record['valid_forces_rmse_mev_per_ang']:.1f} meV/Å")
print(errors(predict(potential, data.valid, stress=False)).as_json())
save(potential, "ethanol.eqn")

import pytest

from length_gen.datamodules.stream import TrajectoryStream, collate
from length_gen.datamodules.tasks import Addition
from length_gen.lightning_modules.backbones import Suffix
from length_gen.lightning_modules.evaluation.solve import solve
from length_gen.lightning_modules.model import masked_targets


@pytest.fixture(scope="session")
def solved():
    """A sum that is right, and one that is too long for a learner of suffixes of 16 tokens in style paper."""
    task = Addition(3, "paper")
    net, stream = Suffix(len(task.vocabulary()), window=16), TrajectoryStream(task, 1)
    batch = collate([stream[i] for i in range(1500)], 512, packed=True)
    net.learn(batch["tokens"][:, :-1], masked_targets(batch["tokens"], batch["kinds"]))
    return solve(net.eval(), task.vocabulary(), task, ["1+2", "12345678+98765432"])

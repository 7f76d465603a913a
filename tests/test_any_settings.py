"""Any value of a setting either builds or gets one line."""

import functools
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import Addition, Copy, HanoiIterative
from length_gen.lightning_modules.backbones import GRU, LSTM, XLSTM, GatedDeltaNet, Mamba, Mamba2, Mistral, Pythia
from length_gen.lightning_modules.model import TrajectoryModel
from length_gen.lightning_modules.training.callbacks import LastCheckpoint, LengthGeneralization
from length_gen.tools import UserError

WHOLE = st.integers(-3, 300) | st.sampled_from([-(2**40), 2**40])
SMALL = st.integers(-3, 40)
REAL = st.floats() | st.floats(0, 1)
FACTOR = st.floats(-1, 8) | st.sampled_from([float("nan"), float("inf"), 1e300])
TEXT = st.sampled_from(["local", "paper", "interactive", "direct", "rollout", "verify", "test", "cosine", ""])


def builds(made, **values):
    """Draw values and build; nothing but a UserError may come of it."""
    @settings(max_examples=60)
    @given(st.fixed_dictionaries(values))
    def test(drawn):
        with suppress(UserError):
            made(**drawn)

    return test


test_tasks = builds(lambda cls, **values: cls(**values), cls=st.sampled_from([Addition, Copy, HanoiIterative]),
                    max_length=WHOLE, style=TEXT, setting=TEXT)
test_data = builds(functools.partial(TrajectoryDataModule, Copy(3)), batch_size=WHOLE, row_length=WHOLE, seed=WHOLE,
                   packed=st.booleans(), num_workers=SMALL | st.none(), validation_rows=WHOLE, evaluation_seed=WHOLE,
                   mistakes=REAL, corrupted=REAL)
test_model = builds(functools.partial(TrajectoryModel, functools.partial(LSTM, d_model=4), Copy(3).vocabulary()),
                    learning_rate=REAL, weight_decay=REAL, betas=st.tuples(REAL, REAL), warmup_steps=WHOLE,
                    schedule=TEXT, final_learning_rate=REAL, state_passing=REAL, state_noise=REAL)
test_recurrent = builds(lambda cls, **values: cls(9, **values), cls=st.sampled_from([LSTM, GRU]), n_layer=SMALL,
                        d_model=SMALL)
test_mamba = builds(functools.partial(Mamba, 9), n_layer=st.integers(-2, 3), d_model=SMALL, d_inner=SMALL,
                    d_state=SMALL, d_conv=SMALL, dt_min=REAL, dt_max=REAL)
test_mamba2 = builds(functools.partial(Mamba2, 9), n_layer=st.integers(-2, 3), d_model=SMALL, d_inner=SMALL,
                     d_state=SMALL, head_dim=SMALL, dt_min=REAL, dt_max=REAL)
test_delta = builds(functools.partial(GatedDeltaNet, 9), n_layer=st.integers(-2, 3), d_model=SMALL, d_conv=SMALL,
                    n_head=SMALL | st.none(), head_dim=SMALL, head_v_dim=SMALL | st.none(), dt_min=REAL, dt_max=REAL)
test_xlstm = builds(functools.partial(XLSTM, 9), n_layer=st.integers(-2, 3), d_model=SMALL, n_head=SMALL,
                    qk_dim_factor=FACTOR, v_dim_factor=FACTOR, ffn_proj_factor=FACTOR)
test_attention = builds(lambda cls, **values: cls(9, **values), cls=st.sampled_from([Pythia, Mistral]),
                        rope_theta=REAL, n_layer=st.integers(-2, 3), d_model=SMALL, d_inner=SMALL, n_head=SMALL)
test_evaluation = builds(LengthGeneralization, lengths=st.lists(WHOLE, max_size=4), problems=WHOLE,
                         problems_at_longest=WHOLE | st.none(), verify_lengths=st.lists(WHOLE, max_size=2),
                         verify_problems=WHOLE, validation_lengths=st.lists(WHOLE, max_size=3),
                         validation_problems=WHOLE, evaluators=st.lists(TEXT, max_size=2), batch_size=WHOLE, split=TEXT)
test_checkpoint = builds(LastCheckpoint, every_n_steps=WHOLE)

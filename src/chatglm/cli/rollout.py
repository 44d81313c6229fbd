"""What GRPO takes from outside training: replies of the decoding engine, and a user's reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm.cli.options import CommandError

if TYPE_CHECKING:
    from chatglm.prompt import Prompt
    from chatglm.training.finetune import Tuning
    from chatglm.training.grpo import Reward
    from chatglm.training.tuning import TuneConfig


def read_reward(spec: str) -> Reward:
    """The function that FILE.py:FUNCTION names; the file is the user's own, named by the user."""
    name, _, function = spec.rpartition(":")
    path = Path(name)
    if not name or path.suffix != ".py":
        raise CommandError(f"--reward reads FILE.py:FUNCTION, got {spec!r}")
    if not path.is_file():
        raise CommandError(f"--reward: no file {path}", 1)
    module_spec = spec_from_file_location(f"reward_{path.stem}", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise CommandError(f"--reward: {path} has no function {function!r}")
    reward: Reward = found
    return reward


def prepare_grpo(
    config: TuneConfig, *, resume: bool, notice: Callable[[dict[str, float]], None]
) -> Tuning:
    """A GRPO run whose replies come from the decoding engine."""
    from chatglm.training.finetune import prepare_run

    assert config.reward is not None
    run: Tuning

    def sample(prompt: Prompt, seeds: Sequence[int]) -> list[list[int]]:
        return replies(run, prompt, seeds)

    run = prepare_run(
        config, resume=resume, notice=notice, play=(sample, read_reward(config.reward))
    )
    return run


def replies(run: Tuning, prompt: Prompt, seeds: Sequence[int]) -> list[list[int]]:
    """One reply a seed, decoded together by the model as it is now."""
    from chatglm.adapters.prefix import PrefixTuned
    from chatglm.generation.chat import ChatGLM
    from chatglm.generation.sampling import Sampling

    loaded = run.loaded
    if isinstance(run.network, PrefixTuned):
        loaded = replace(loaded, prefix=run.network.encoder().detach())
    engine = ChatGLM(loaded, max_num_seqs=len(seeds)).engine
    found: list[list[int]] = [[] for _ in seeds]
    with ExitStack() as stack:
        streams = [
            stack.enter_context(
                closing(
                    engine.stream(
                        prompt,
                        Sampling(
                            temperature=run.config.temperature,
                            max_new_tokens=run.config.max_new_tokens,
                            seed=seed,
                        ),
                    )
                )
            )
            for seed in seeds
        ]
        going = list(range(len(seeds)))
        while going:
            still = []
            for i in going:
                output = next(streams[i], None)
                if output is not None and output.token is not None:
                    found[i].append(output.token)
                    still.append(i)
            going = still
    return found

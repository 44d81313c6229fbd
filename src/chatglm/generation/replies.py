"""From scores to tokens and from tokens to outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from chatglm.generation.request import Branch, Finish, Output, Request
from chatglm.generation.sampling import best_of, check_finite, log_probabilities
from chatglm.generation.scheduler import Scheduler


class Replies:
    """The requests that are on their way, and how their branches go on."""

    def __init__(self, scheduler: Scheduler, num_learned: int) -> None:
        self.scheduler = scheduler
        self.num_learned = num_learned
        self.requests: dict[int, Request] = {}
        self.branches: dict[int, Branch] = {}
        self.num_drafted = self.num_accepted = 0

    def add(self, request: Request) -> None:
        """Take a request in."""
        self.requests[request.id] = request
        for branch in request.branches:
            self.branches[branch.id] = branch

    def drop(self, request: int) -> bool:
        """Forget a request; False where it is not known."""
        found = self.requests.pop(request, None)
        for branch in [] if found is None else found.branches:
            self.leave(branch)
        return found is not None

    def leave(self, branch: Branch) -> None:
        """Forget a branch and give its blocks back."""
        self.scheduler.remove(branch.id)
        self.branches.pop(branch.id, None)

    def fail(self, requests: Iterable[Request], error: Exception) -> list[Output]:
        """End requests with an error; the others go on."""
        outputs = []
        for request in requests:
            if self.drop(request.id):
                outputs.append(Output(id=request.id, token=None, error=error))
                request.outputs.append(outputs[-1])
        return outputs

    def choose(self, branches: Sequence[Branch], logits: Tensor) -> list[Output]:
        """The next tokens of each branch from its rows of logits (R, V): one, and one more for each
        draft that proves right.
        """
        scores: list[float] = []
        tokens: list[int] = []
        if any(branch.sampler.takes_likeliest for branch in branches):
            scores, tokens = best_of(logits)
        outputs: list[Output] = []
        row = 0  # of the branch's first token
        for branch in branches:
            drafts, branch.drafts = branch.drafts, []
            try:
                for i in range(1 + len(drafts)):
                    if branch.id not in self.branches:  # it has ended, or another of its request
                        break
                    at = row + i
                    if branch.request.beams is not None:
                        outputs += self.collect(branch, logits[at])
                        break
                    if branch.sampler.takes_likeliest:
                        check_finite(scores[at])
                        token = tokens[at]
                    else:
                        token = branch.sampler.next(logits[at])
                    outputs += self.take(branch, token, logits[at])
                    if i == len(drafts) or token != drafts[i]:
                        break
                    branch.num_read += 1
                if drafts:
                    self.judge(branch, i, len(drafts))
            except Exception as error:  # a caller's processor may raise anything
                outputs += self.fail([branch.request], error)
            row += 1 + len(drafts)
        return outputs

    def judge(self, branch: Branch, num_accepted: int, num_drafted: int) -> None:
        """Count drafts that proved right."""
        branch.judge(num_accepted, num_drafted)
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted

    def take(self, branch: Branch, token: int, logits: Tensor) -> list[Output]:
        """Add a token to a branch, which leaves if that was its last; what can be told now."""
        request = branch.request
        branch.sampler.remember(token)
        finish: Finish | None = None
        if token in request.stop_ids:
            finish = "stop"
        elif branch.num_new >= request.limit:
            finish = "length"
        logprob, top = None, None
        asked = request.sampling.logprobs
        if asked is not None or request.is_held:
            logprob, top = log_probabilities(logits, token, asked or 0)
            branch.total += logprob
        output = Output(
            id=request.id,
            index=branch.index,
            token=token,
            finish=finish,
            logprob=None if asked is None else logprob,
            top_logprobs=None if asked is None else top,
        )
        if finish is not None:
            self.leave(branch)
        if not request.is_held:
            return [self.put(request, output)]
        branch.held.append(output)
        if any(other.id in self.branches for other in request.branches):
            return []
        likeliest = sorted(request.branches, key=lambda b: b.total / b.num_new, reverse=True)
        return [
            self.put(request, replace(output, index=index))
            for index, best in enumerate(likeliest[: request.sampling.n])
            for output in best.held
        ]

    def put(self, request: Request, output: Output) -> Output:
        """The output as it is given out; a request leaves with the last of its replies."""
        if not request.has_begun:
            request.has_begun = True
            asked = request.sampling.prompt_logprobs is not None
            output = replace(
                output,
                num_cached=request.num_cached,
                prompt_logprobs=request.prompt_logprobs if asked else None,
            )
        request.outputs.append(output)
        if output.finish is not None:
            request.num_open -= 1
            if not request.num_open:
                self.drop(request.id)
        return output

    def collect(self, branch: Branch, logits: Tensor) -> list[Output]:
        """Keep the scores of a branch of a search; once all are there, all go on."""
        request, beams = branch.request, branch.request.beams
        assert beams is not None
        beams.logits[branch.index] = logits
        if not beams.is_ready:
            return []
        rows = [beams.logits[b.index].log_softmax(-1) for b in request.branches]
        if any(b.sampler.adjusts for b in request.branches):
            rows = [b.sampler.adjust(row) for b, row in zip(request.branches, rows, strict=True)]
        nexts = beams.advance(torch.stack(rows))
        if not nexts:
            return self.conclude(request)
        samplers = [request.branches[parent].sampler.fork() for parent, _ in nexts]
        sources = {
            b.id: request.branches[parent].id
            for b, (parent, _) in zip(request.branches, nexts, strict=True)
            if parent != b.index
        }
        self.scheduler.fork(sources, self.num_learned + branch.num_read)
        for b, sampler, (_, token) in zip(request.branches, samplers, nexts, strict=True):
            b.sampler = sampler
            b.sampler.remember(token)
        return []

    def conclude(self, request: Request) -> list[Output]:
        """The outputs of a search that has ended."""
        assert request.beams is not None
        outputs = []
        for index, hypothesis in enumerate(request.beams.results):
            last = len(hypothesis.tokens) - 1
            for i, (token, score) in enumerate(
                zip(hypothesis.tokens, hypothesis.scores, strict=True)
            ):
                finish: Finish = "stop" if hypothesis.ended else "length"
                output = Output(
                    id=request.id,
                    index=index,
                    token=token,
                    finish=finish if i == last else None,
                    logprob=None if score is None else score[0],
                    top_logprobs=None if score is None else score[1],
                )
                outputs.append(self.put(request, output))
        self.drop(request.id)
        return outputs

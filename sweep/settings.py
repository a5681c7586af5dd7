"""What a sweep file says of how its stages are trained, measured, placed, kept and ranked."""

from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from energyaware.checkpoints import CheckpointRule
from energyaware.energy.base import Component, MeterSettings
from energyaware.spec import Method
from sweep.choices import Part, like, listed
from sweep.inputs import Count

Share = Annotated[float, Field(ge=0, le=1)]


def without_twins(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, none of which stands twice."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"entry {index} says the same as entry {values.index(value)}")
    return values


class Lora(Part):
    """Low-rank adapters, on all linear layers of the model's body."""

    rank: Count = 16
    """Rank of the change of each weight."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The change is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the adapter."""


class Finetune(Part):
    """How each configuration is fine-tuned."""

    method: Method = "lora"
    """lora trains adapters, full all weights, none measures the base model as it is."""
    epochs: Count = 3
    """Passes over the training split."""
    steps: Count | None = None
    """Optimizer steps, in place of epochs."""
    batch_size: Count = 32
    """Examples per optimizer step, over all workers."""
    micro_batch_size: Count | None = None
    """Examples per worker and forward pass; the rest of its share is accumulated. Default: its whole share."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Peak of a cosine schedule."""
    warmup: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW."""
    sequence_length: Annotated[int, Field(ge=8)] = 512
    """Tokens of prompt and answer; longer prompts lose their start, an answer that is longer by itself its end."""
    lora: Lora = Lora()
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 0
    """DeepSpeed ZeRO stage."""


class Inference(Part):
    """How each configuration is evaluated and measured."""

    batch_size: Count = 16
    """Requests answered together by one worker."""
    max_new_tokens: Count = 64
    """Tokens generated per response; measured windows always generate all of them."""
    test_examples: Count | None = None
    """At most so many examples of the test split."""
    min_window_s: Annotated[float, Field(gt=0)] = 5.0
    """Measured windows repeat the same batch until they are at least so long. Under 5 s they are marked as short."""
    repeats: Count = 3
    """How often prefill and decode are measured, in shuffled order."""


class Resources(Part):
    """What one trial runs on."""

    workers: Count = 1
    """Worker processes of a fine-tuning, one per GPU."""
    inference_workers: Count | None = None
    """Of an inference. Default: as many as of a fine-tuning. With fewer, inferences run beside each other."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    """CPU cores a worker holds."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] | None = None
    """GPUs a worker holds, 0 or 1. Default: 1 on cuda, 0 on cpu, where it could be held without computing on it."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """What workers compute on; auto takes cuda where the machine that starts the sweep has an NVIDIA GPU."""
    gpu_kind: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(listed), AfterValidator(without_twins)
    ] = ()
    """Part of the GPU's product name, such as H100. A list is an axis: everything is measured on each kind. Needed
    where a cluster has several kinds."""
    placement: Literal["pack", "spread"] = "pack"
    """pack: the workers of a trial on as few machines as can hold them. spread: evenly over as many as there are."""
    nodes: Count | None = None
    """Machines that the workers of a trial are spread over evenly, in place of what placement would choose. A trial
    with fewer workers has one on each."""
    exclusive: Literal["none", "gpu", "node"] = "none"
    """gpu: a GPU with processes of others is refused. node: that too, and while a stage runs, nothing else of Ray runs
    on its machines, so that their joules are its own."""
    wait_minutes: Annotated[float, Field(gt=0)] = 10
    """How long a run waits for machines when no trial fits on those left. Then it stops, and can go on later."""

    @model_validator(mode="after")
    def _nodes_have_workers(self) -> Self:
        if self.nodes is not None and self.nodes > self.workers:
            raise ValueError(f"nodes {self.nodes} is more than workers {self.workers}")
        return self

    @model_validator(mode="after")
    def _kinds_are_of_gpus(self) -> Self:
        if self.gpu_kind and self.device == "cpu" and not self.gpus_per_worker:
            raise ValueError("gpu_kind is for workers that hold GPUs: with device cpu they hold none")
        return self

    def workers_of(self, kind: Literal["finetune", "inference"]) -> int:
        """Worker processes of a stage of that kind."""
        return self.inference_workers or self.workers if kind == "inference" else self.workers

    @property
    def gpu_kinds(self) -> tuple[str | None, ...]:
        """As an axis of the grid: one kind is where stages run, several are part of what they are."""
        return self.gpu_kind if len(self.gpu_kind) > 1 else (None,)


class Energy(Part):
    """How nodes are metered, and where they stand, for carbon and cost."""

    components: Annotated[tuple[Component, ...], BeforeValidator(listed), Field(min_length=1)] = get_args(Component)
    """What counts: cpu, dram, gpu. One that is left out is in no figure; one that a node cannot read is refused."""
    country: Annotated[str, like("[A-Z]{3}", "three capital letters, such as DEU")] | None = None
    """ISO 3166-1 alpha-3 code, such as DEU. Without it, and without carbon_g_per_kwh, no carbon is given."""
    region: str | None = None
    """Province or state, where CodeCarbon has data for it."""
    carbon_g_per_kwh: Annotated[float, Field(ge=0)] | None = None
    """Emission factor of your electricity, in place of the country's."""
    pue: Annotated[float, Field(ge=1)] = 1.0
    """Power usage effectiveness of the data centre, applied to carbon and cost. Joules stay those of the machines."""
    price_per_kwh: Annotated[float, Field(ge=0)] | None = None
    """Price of electricity. Without it no cost is given."""
    currency: Annotated[str, like("[A-Z]{3}", "three capital letters, such as EUR")] | None = None
    """ISO 4217 code of the price, such as EUR."""
    idle_s: Annotated[float, Field(ge=0)] = 5.0
    """Seconds over which the nodes' idle power is read before anything starts; 0 leaves net joules unknown."""
    heartbeat_s: Annotated[float, Field(ge=0.5, le=60)] = 2.0
    """Seconds between two readings, and two writes of the ledger: what a crash loses at most."""

    def settings(self) -> MeterSettings:
        """As a node's meter takes them."""
        return MeterSettings(**self.model_dump())


class Checkpoints(Part):
    """When a fine-tuning leaves a checkpoint that an interrupted one goes on from, and how many are kept."""

    every_steps: Count | None = None
    """Optimizer steps between two checkpoints."""
    every_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes between two. Default, without either: as often as costs about 2 % of the time, 10 s to 10 min apart."""
    keep: Count = 2
    """How many of a stage's checkpoints are kept. All are removed when the stage is finished."""
    max_gb: Annotated[float, Field(gt=0)] | None = None
    """No more of a stage's older checkpoints are kept than fit into this; the last one always is."""

    def rule(self) -> CheckpointRule:
        """As a fine-tuning takes them."""
        return CheckpointRule(
            every_steps=self.every_steps,
            every_s=None if self.every_minutes is None else 60 * self.every_minutes,
            keep=self.keep,
            max_bytes=None if self.max_gb is None else int(self.max_gb * 1e9),
        )


class Failures(Part):
    """What happens to a stage that fails.

    One that lost its node is always tried again; one that ran out of memory only with half the micro-batch.
    """

    retries: Annotated[int, Field(ge=0)] = 1
    """How often a stage is tried again after an error of code or data, or a worker that died."""
    backoff_s: Annotated[float, Field(ge=0)] = 5.0
    """Seconds before it is tried again, doubled each time up to 5 minutes."""


Cap = Annotated[float, Field(gt=0)] | None


class Budget(Part):
    """What the sweep may use in all its runs together.

    No stage starts that would exceed a cap, as far as finished stages of its kind tell; running ones end, a fine-tuning
    at a checkpoint once a cap is reached. The same command goes on after a cap was raised.
    """

    kwh: Cap = None
    """Joules of all attempts, lost ones and loading too; not those of idle machines."""
    gpu_hours: Cap = None
    """GPUs that attempts held, times their wall time."""
    hours: Cap = None
    """Wall time of the runs, added up, so that going on does not start anew."""
    cost: Cap = None
    """Price of the joules, PUE applied, in the currency of energy.price_per_kwh, which it needs."""


class Strategy(Part):
    """Which stages of the grid are run."""

    kind: Literal["grid", "funnel"] = "grid"
    """grid: all. funnel: every precision without pruning first; prunings on the best precisions of each model alone,
    as `ranking` has it."""
    keep: Count = 2
    """How many precisions prunings are tried on by a funnel, and those that tie with the last of them."""

    short: ClassVar = "grid or funnel"

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


class Halving(Part):
    """Stops fine-tunings that others are ahead of, by asynchronous successive halving.

    At certain epochs each is held against those of its model and seed that have come so far, by joules and validation
    loss weighed as `ranking.weight` says. It is kept as a row, in state stopped, and its inferences are not run.
    """

    eta: Annotated[int, Field(ge=2)] = 2
    """Of those that come so far, the best one in so many goes on."""
    from_epoch: Count = 1
    """The first epoch after which they are compared; then after eta times as many, and so on."""


class RankingChoice(Part):
    """What `energyaware rank` uses unless told otherwise."""

    weight: Share = 0.5
    """w of R = w * phi + (1 - w) * rho: 1 asks for energy alone, 0 for quality alone."""
    requests: Count = 10_000
    """Requests over which the joules of a fine-tuning are spread."""
    phi: Literal["minmax", "ratio"] = "minmax"
    """Normalisation of energy."""
    metric: Literal["request", "token", "correct", "edp", "carbon", "cost"] = "request"
    """What of energy is normalised: joules per request, per token or per correct answer, energy-delay product, carbon
    or cost per request."""
    allow_mixed: bool = False
    """Rank measured and estimated energy against each other, which is otherwise refused."""

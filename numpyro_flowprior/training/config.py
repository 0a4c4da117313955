"""TrainConfig: the training settings of a flow. It is hashable, so that compiled steps are reused."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .._util.checks import one_of, plain_numbers, positive_int, real_in

LOSSES = ("nll", "kl", "jeffreys", "log_variance")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the optimiser.

    Attributes:
        loss: the function that is minimised (training.losses). "nll" is the negative log likelihood of the samples
            (Roch and Shen 2025, Eq. 8), for chains without a log density. The other losses need `chain.log_prob`.
            "log_variance" is `likelihood` times "nll" plus `supervision` times the spread of log p - log q. It is the
            most accurate loss where there are few draws, above all in the tails. "kl" (Eq. 5) has the gradient of
            "nll". "jeffreys" is Eq. 4.
        learning_rate: peak learning rate of AdamW.
        schedule: "cosine": a short warm-up of the learning rate, then a cosine decay to zero; or "constant".
        batch_size: rows per step, drawn in proportion to their weights.
        max_steps: number of steps if training is not stopped early.
        eval_every: steps between evaluations of the validation loss; they run in one compiled call.
        patience: training stops after this number of evaluations without a lower validation loss.
        validation: fraction of the chain held out to choose the best weights, in (0, 0.5].
        weight_decay: weight decay of AdamW.
        likelihood: weight of the likelihood in "log_variance"; 0 for the regression alone.
        supervision: weight of the regression in "log_variance".
        normalised: whether "jeffreys" uses the normalised log density `chain.log_prob` - `chain.log_evidence`, which
            requires the evidence. The loss is then sensitive to mass that the flow puts where there are no draws, as a
            flow without bounds may.
        clip: maximum global norm of a gradient.

    Raises:
        TypeError, ValueError: a field has the wrong type or is out of range.
    """

    loss: str = "nll"
    learning_rate: float = 2e-3
    schedule: str = "cosine"
    batch_size: int = 1024
    max_steps: int = 4000
    eval_every: int = 50
    patience: int = 20
    validation: float = 0.15
    weight_decay: float = 1e-4
    likelihood: float = 1.0
    supervision: float = 10.0
    normalised: bool = False
    clip: float = 5.0

    def __post_init__(self) -> None:
        one_of(self.loss, "TrainConfig.loss", LOSSES)
        one_of(self.schedule, "TrainConfig.schedule", ("cosine", "constant"))
        real_in(self.learning_rate, "TrainConfig.learning_rate", 0.0, 1.0, open_low=True)
        for name in ("batch_size", "max_steps", "eval_every", "patience"):
            positive_int(getattr(self, name), f"TrainConfig.{name}")
        real_in(self.validation, "TrainConfig.validation", 0.0, 0.5, open_low=True)
        real_in(self.weight_decay, "TrainConfig.weight_decay", 0.0, 10.0)
        real_in(self.likelihood, "TrainConfig.likelihood", 0.0, 1e6)
        real_in(self.supervision, "TrainConfig.supervision", 0.0, 1e6, open_low=True)
        real_in(self.clip, "TrainConfig.clip", 0.0, 1e6, open_low=True)
        plain_numbers(self)
        if not isinstance(self.normalised, bool):
            raise TypeError(f"TrainConfig.normalised: expected True or False; got {self.normalised!r}.")
        if self.normalised and self.loss != "jeffreys":
            raise ValueError(
                f'TrainConfig.normalised: expected False with the loss "{self.loss}"; got True. '
                'Leave it out; only "jeffreys" uses it.'
            )

    @classmethod
    def paper(cls, loss: str = "nll", learning_rate: float = 1e-4, batch_size: int = 1000) -> TrainConfig:
        """Returns the settings of Roch and Shen (2025): Adam, a constant rate, 200,000 steps, no early stopping.

        Unlike in the paper, the weights with the lowest validation loss are kept, not the last ones.

        Args:
            loss: "jeffreys", "kl" or "nll" (Eqs. 4, 5 and 8).
            learning_rate: 1e-3, 5e-4, 1e-4 or 5e-5 in the paper.
            batch_size: 500, 1000, 2000 or 5000 in the paper.
        """
        one_of(loss, "TrainConfig.paper: loss", ("jeffreys", "kl", "nll"))
        return cls(
            loss=loss,
            learning_rate=learning_rate,
            schedule="constant",
            batch_size=batch_size,
            max_steps=200_000,
            eval_every=1000,
            patience=200,
            validation=0.2,
            weight_decay=0.0,
            clip=1e6,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON-ready description."""
        return asdict(self)

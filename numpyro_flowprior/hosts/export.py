"""Programs that use a prior file in other frameworks: what `flowprior export` writes."""

from __future__ import annotations

import os
import re
from keyword import iskeyword
from pathlib import Path

from .._util.checks import one_of, printable
from ..priors.prior_file import read_prior

HOSTS = ("bilby", "cobaya", "pymc", "torch", "stan")


def export_prior(
    path: str | os.PathLike[str], host: str, output: str | os.PathLike[str] | None = None, *, force: bool = False
) -> Path:
    """Writes a program that uses a prior file in another framework, and returns its path.

    A Python program finds the prior file relative to itself, so move the two together. A Stan program holds a mixture
    in place of the flow (`fit_mixture`) and needs no other file.

    Args:
        path: a prior file.
        host: "bilby", "cobaya", "pymc", "torch" or "stan".
        output: file to write; None for the name of the prior file and the host, e.g. prior_bilby.py or prior.stan,
            in the same folder.
        force: whether to replace a file that is there.

    Raises:
        ValueError: an unknown host.
        FileNotFoundError: there is no such prior file, or no such folder for the output.
        FileExistsError: the output is there already.
        FileFormatError: the prior file is damaged, of another kind, or newer than this package.
        ImportError: host="stan" without scikit-learn.
    """
    one_of(host, "export: host", HOSTS)
    path = Path(path)
    names = read_prior(path).space.names
    ending = f"{path.stem}.stan" if host == "stan" else f"{path.stem}_{host}.py"
    output = path.with_name(ending) if output is None else Path(output)
    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output}: the folder {output.parent} does not exist. Make it first.")
    if output.exists() and (not force or output.samefile(path)):
        raise FileExistsError(f"{output}: it exists. Choose another name with -o, or replace it with --force.")
    output.write_text(_program(path, host, output, names), encoding="utf-8")
    return output


def _program(path: Path, host: str, output: Path, names: tuple[str, ...]) -> str:
    if host == "stan":
        from .stan import stan_code  # needs scikit-learn

        return stan_code(path)
    relative = os.path.relpath(path.resolve(), output.parent.resolve())
    parts = {
        "file": repr(Path(relative).as_posix()),
        "names": printable(", ".join(names)).replace("\\", "\\\\").replace('"', '\\"'),
        "first": repr(names[0]),
        "count": len(names),
        "arguments": repr(_arguments(names)),
        "first_argument": (_arguments(names) or names)[0],
    }
    return re.sub(r"@(\w+)@", lambda found: str(parts[found[1]]), _PROGRAMS[host])


def _arguments(names: tuple[str, ...]) -> list[str] | None:
    """Returns names that Cobaya accepts, or None if it accepts those of the file."""
    fine = all(name.isidentifier() and not iskeyword(name) for name in names)
    return None if fine else [f"p{j}" for j in range(len(names))]


_PROGRAMS = {
    "bilby": '''\
"""The prior over @names@ in bilby."""

from pathlib import Path

import bilby

from numpyro_flowprior.hosts.bilby import bilby_priors

priors = bilby_priors(Path(__file__).parent / @file@)
# priors["another"] = bilby.core.prior.Uniform(0.0, 1.0, "another")


class Likelihood(bilby.Likelihood):
    """Put the log likelihood of your data here."""

    def log_likelihood(self, parameters=None):
        return 0.0 * parameters[@first@]


if __name__ == "__main__":
    print(priors.sample())
    # result = bilby.run_sampler(Likelihood(), priors, sampler="dynesty", nlive=500)
''',
    "cobaya": '''\
"""The prior over @names@ in Cobaya."""

from pathlib import Path

from cobaya.run import run

from numpyro_flowprior.hosts.cobaya import cobaya_info

blocks = cobaya_info(Path(__file__).parent / @file@, names=@arguments@)  # params and prior
info = {
    **blocks,
    "likelihood": {"data": lambda @first_argument@: 0.0 * @first_argument@},  # put the log likelihood of your data here
    "sampler": {"evaluate": None},  # {"mcmc": None} to sample
}

if __name__ == "__main__":
    updated, sampler = run(info)
    print(sampler.products()["sample"])
''',
    "pymc": '''\
"""The prior over @names@ in PyMC."""

from pathlib import Path

import pymc

from numpyro_flowprior.hosts.pymc import pymc_prior

with pymc.Model() as model:
    theta = pymc_prior("theta", Path(__file__).parent / @file@)  # a vector: @names@
    # pymc.Normal("y", theta[0], 0.1, observed=0.5)

if __name__ == "__main__":
    print(pymc.draw(theta, 3))
    # trace = pymc.sample(model=model)
''',
    "torch": '''\
"""The prior over @names@ in PyTorch, and for sbi."""

from pathlib import Path

import torch

from numpyro_flowprior.hosts.torch import TorchFlowPrior

prior = TorchFlowPrior(Path(__file__).parent / @file@)

if __name__ == "__main__":
    torch.manual_seed(0)
    theta = prior.sample((3,))  # (3, @count@)
    print(theta, prior.log_prob(theta))
    # from sbi.inference import NPE
    # posterior = NPE(prior=prior).append_simulations(theta, x).train()
''',
}

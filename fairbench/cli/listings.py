"""`fairbench methods|policies|datasets|models|attacks|loggers|suites`: listings that import no plug-in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from fairbench import registry
from fairbench.cli.options import AsJson, Plugins, add_plugins, two_columns
from fairbench.cli.plain import PlainTyper
from fairbench.errors import InvalidInput
from fairbench.plugins.source import Registration
from fairbench.report.text.width import beside

__all__ = ["attacks", "datasets", "loggers", "methods", "models", "policies", "suites_command"]

# What a method may need beside the training images, in words.
NEEDS = {
    "teacher": "a teacher",
    "natural_teacher": "a natural teacher",
    "warm_start": "a warm start",
    "method_split": "held-out images (data.method_per_class)",
}


def _listing(registered: registry.Registry[Any], plural: str, others: str = ", or show one") -> typer.Typer:
    """Make the command that lists a registry, with `show NAME` below it; listing imports no plug-in and no torch.

    `others` says in its help what else it does.
    """
    group = PlainTyper(
        help=f"List {plural}{others}.",
        epilog=f"Example: fairbench {plural}",
        invoke_without_command=True,
    )

    @group.callback()
    def listing(context: typer.Context, plugin: Plugins = None, json_: AsJson = False) -> None:
        add_plugins(plugin)
        if context.invoked_subcommand is None:
            rows = {name: str(entry.details.get("summary") or "") for name, entry in registered.scan().items()}
            if json_:
                print(json.dumps(rows, indent=1))
            elif registered is registry.methods:
                print(_by_kind(registered.scan()))
            else:
                print(two_columns(rows))

    @group.command("show", epilog=f"Example: fairbench {plural} show NAME")
    def show_one(
        name: Annotated[str, typer.Argument(help="A name that the listing has.")],
        plugin: Plugins = None,
        json_: AsJson = False,
    ) -> None:
        """Show one of them whole."""
        from fairbench.authoring import catalogue

        add_plugins(plugin)
        facts = catalogue.describe_name(registered, name)
        print(json.dumps(facts, indent=1, default=str) if json_ else catalogue.render_facts(facts))

    return group


def _by_kind(entries: Mapping[str, Registration]) -> str:
    """List methods by kind (a base objective, or class policies on one) and by what they need."""
    from fairbench.authoring.needs import needs_of

    policies = registry.policies.scan()
    groups: dict[tuple[str, tuple[str, ...]], dict[str, str]] = {}
    for name, entry in entries.items():
        base = entry.details.get("base")
        kind = "base objectives" if base is None else f"class policies on {base}"
        rows = groups.setdefault((kind, needs_of(name, entries, policies)), {})
        rows[name] = str(entry.details.get("summary") or "")
    blocks = []
    for kind, needs in sorted(groups):
        words = " and ".join(NEEDS.get(need, need) for need in needs)
        title = f"{kind}, with {words}" if needs else kind
        blocks.append(f"{beside('', f'{title}:')}\n{two_columns(groups[kind, needs], indent=2)}")
    return "\n\n".join([*blocks, "`fairbench methods show NAME` shows one method whole."])


methods = _listing(registry.methods, "methods", ", show one, or check one by its contract")
datasets = _listing(registry.datasets, "datasets", ", show one, or download one")
policies = _listing(registry.policies, "policies")
models = _listing(registry.models, "models")
attacks = _listing(registry.attacks, "attacks")
loggers = _listing(registry.loggers, "loggers")


@methods.command("check", epilog="Example: fairbench methods check my_method --plugin my_method.py")
def check_method_command(
    name: Annotated[str, typer.Argument(help="The name under which the method is registered.")], plugin: Plugins = None
) -> None:
    """Run every hook of a method on generated data and report each contract that it breaks."""
    from fairbench import authoring

    add_plugins(plugin)
    findings = authoring.check_method(name)
    for finding in findings:
        print(finding)
    if not all(finding.passed for finding in findings):
        raise InvalidInput(f"method {name} fails {sum(not finding.passed for finding in findings)} checks")


@datasets.command("get", epilog="Example: fairbench datasets get cifar10")
def get_dataset_command(name: Annotated[str, typer.Argument(help="A name that `fairbench datasets` lists.")]) -> None:
    """Download a dataset and verify it."""
    from fairbench.data import download

    data = download(name)
    print(f"{data.name}: {len(data.train)} training and {len(data.test)} test images, {data.num_classes} classes")


def suites_command(
    words: Annotated[list[str] | None, typer.Argument(metavar="[show] [NAME]", help="Show this suite whole.")] = None,
) -> None:
    """List suites and the newest committed board of each, or show one suite."""
    from fairbench.leaderboard.lookup import committed_folder, versions_of
    from fairbench.suites.suite import load_suite, suite_paths

    *command, name = words or [""]
    if command not in ([], ["show"]):
        raise InvalidInput(f"suites shows one suite, not {len(words or ())}: {' '.join(words or ())}")
    if not words:
        rows = {}
        for known in suite_paths():
            suite, boards = load_suite(known), versions_of(committed_folder() / known)
            measured = f"board {boards[0].stem}" if boards else "not measured"
            rows[known] = f"{suite.summary} (version {suite.version}, {measured})"
        print(two_columns(rows))
    else:
        print(load_suite(name).model_dump_json(indent=1))

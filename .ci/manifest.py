#!/usr/bin/env python3
"""What the manifest promises, checked against what cargo would build.

    .ci/manifest.py features        every feature, one a line
    .ci/manifest.py testing         a plain dependency does not switch the feature `testing` on
    .ci/manifest.py rust-version    `rust-version` covers what the default features declare
"""

import json
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CRATE = "portcullis"


def output(*command, cwd=ROOT):
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def manifest():
    metadata = output("cargo", "metadata", "--locked", "--no-deps", "--format-version", "1")
    return next(p for p in json.loads(metadata)["packages"] if p["name"] == CRATE)


def user(features):
    """The folder of a throw-away crate that depends on this one, with its lock file.

    Inside the repository cargo would add what the dev-dependencies switch on.
    """
    folder = ROOT / "target" / "ci" / "user"
    (folder / "src").mkdir(parents=True, exist_ok=True)
    (folder / "src" / "lib.rs").touch()
    dependency = f"{{ path = {json.dumps(str(ROOT))}, features = {json.dumps(features)} }}"
    (folder / "Cargo.toml").write_text(
        '[package]\nname = "user"\nversion = "0.0.0"\nedition = "2024"\n\n'
        f"[dependencies]\n{CRATE} = {dependency}\n\n[workspace]\n"
    )
    shutil.copy(ROOT / "Cargo.lock", folder / "Cargo.lock")
    return folder


def tree(folder):
    """What cargo builds for this machine, as `name version` and the features that are on."""
    # Offline: versions come from the lock file or not at all. `cargo metadata` will not do here: it also names what no feature uses.
    lines = output("cargo", "tree", "--offline", "-e", "normal,build", "--prefix", "none", "-f", "{p}|{f}", cwd=folder)
    crates = {}
    for line in lines.splitlines():
        crate, _, features = line.removesuffix(" (*)").partition("|")
        name, version = crate.split()[:2]
        crates.setdefault((name, version.removeprefix("v")), set()).update(filter(None, features.split(",")))
    return crates


def check_testing():
    def is_on(features):
        (on,) = (on for (name, _), on in tree(user(features)).items() if name == CRATE)
        return "testing" in on

    wrong = []
    for features in ([], ["full"]):
        on = is_on(features)
        print(f"features {features}: testing is {'ON' if on else 'off'}")
        if on:
            wrong.append(f"a plain dependency with features {features} switches `testing` on")
    # The control: a check that cannot see the feature would pass for ever.
    if is_on(["testing"]):
        print("features ['testing']: testing is on, so the check can fail")
    else:
        wrong.append("the check does not see `testing` even where it is asked for")
    return wrong


def number(version):
    parts = [int(part) for part in version.split("-")[0].split("+")[0].split(".")]
    return tuple(parts + [0] * (3 - len(parts)))


def check_rust_version():
    folder = user([])
    crates = tree(folder)
    metadata = json.loads(output("cargo", "metadata", "--offline", "--format-version", "1", cwd=folder))
    packages = [p for p in metadata["packages"] if (p["name"], p["version"]) in crates and p["name"] != "user"]
    declared = next(p["rust_version"] for p in packages if p["name"] == CRATE)
    if declared is None:
        return ["Cargo.toml declares no `rust-version`"]
    others = [p for p in packages if p["name"] != CRATE]
    asking = [p for p in others if p["rust_version"]]
    silent = sorted(f"{p['name']} {p['version']}" for p in others if not p["rust_version"])
    highest = max(number(p["rust_version"]) for p in asking)
    setters = sorted(f"{p['name']} {p['version']}" for p in asking if number(p["rust_version"]) == highest)
    running = output("rustc", "--version").split()[1]

    print(f"declared: {declared}; running: {running}")
    print(f"asked for by {len(asking)} of the {len(others)} crates of the default features: at most {'.'.join(map(str, highest))}")
    print(f"    set by {', '.join(setters)}")
    print(f"declared by none of {len(silent)}: {', '.join(silent)}")

    wrong = []
    if number(declared) < highest:
        wrong.append(f"`rust-version` is {declared}, but {', '.join(setters)} need more")
    if number(running) < number(declared):
        wrong.append(f"the running compiler {running} is older than `rust-version` {declared}")
    return wrong


def main():
    match sys.argv[1:]:
        case ["features"]:
            print("\n".join(sorted(manifest()["features"])))
            return 0
        case ["testing"]:
            wrong = check_testing()
        case ["rust-version"]:
            wrong = check_rust_version()
        case _:
            sys.exit(__doc__)
    for message in wrong:
        print(f"error: {message}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failure:
        sys.exit(f"error: {failure}")

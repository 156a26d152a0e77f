"""Puts what `gpu.sh` measured on one page: python gpu_page.py DIR DEVICE SIZE ..."""

import datetime
import json
import re
import sys
from pathlib import Path

work, device, sizes = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
today = datetime.date.today().isoformat()
lines = [f"# The engine on {device}", "", f"{today}, `scripts/bench/gpu.sh {' '.join(sizes)}`, bf16, random weights of true shapes.", ""]
for size in sizes:
    said = (work / f"{size}-cocoon.txt").read_text().splitlines()
    ours = {f["name"]: f["value"] for f in json.loads(said[-1])["figures"]}
    torch = json.loads((work / f"{size}-torch.json").read_text())
    lines += [f"## Qwen3-{size}", "", "| | tok/s | of ceiling | torch eager | graphs | compiled | ratio to graphs |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name in [n for n in ours if n.endswith("_tokens_per_second")]:
        key = name.removesuffix("_tokens_per_second")
        of = ours.get(f"{key}_of_ceiling", 0.0)
        eager = torch.get(f"{key}_eager", torch.get(key))
        graphs, compiled = torch.get(f"{key}_graphs"), torch.get(f"{key}_compiled")
        cell = lambda x: f"{x:.0f}" if x else "-"
        best = graphs or eager
        ratio = f"{ours[name] / best:.2f}" if best else "-"
        lines.append(f"| {key.replace('_', ' ')} | {ours[name]:.0f} | {of:.0%} | {cell(eager)} | {cell(graphs)} | {cell(compiled)} | {ratio} |")
    lines += ["", f"Memory {ours['bandwidth']:.0f} GB/s, matrices {ours['matrix_peak']:.0f} TFLOP/s; from nothing to the first token {ours['cold_first_token']:.0f} ms.", ""]
page = Path("docs/benchmarks") / f"{today}-{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.md"
page.parent.mkdir(parents=True, exist_ok=True)
page.write_text("\n".join(lines))
print(f"==> {page}")

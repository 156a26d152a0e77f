//! A GGUF file of a few hundred kilobytes: the architecture, the tokenizer and every number format of the
//! real one, with made-up weights. It says nothing sensible, but it takes every path of the engine.

use std::collections::BTreeMap;

pub const WIDTH: u64 = 64;
pub const HEADS: u64 = 4;
pub const KV_HEADS: u64 = 2;
pub const FEED_FORWARD: u64 = 96;
pub const LAYERS: u64 = 2;
pub const CONTEXT: u32 = 256;

/// ggml's format numbers.
pub const F32: u32 = 0;
pub const F16: u32 = 1;
pub const Q4_0: u32 = 2;
pub const Q4_1: u32 = 3;
pub const Q8_0: u32 = 8;

/// A metadata value as it is written: type number and bytes.
#[derive(Clone)]
pub struct Encoded(pub u32, pub Vec<u8>);

pub fn text(s: &str) -> Encoded {
    Encoded(8, string(s))
}

pub fn number(n: u32) -> Encoded {
    Encoded(4, n.to_le_bytes().to_vec())
}

pub fn float(x: f32) -> Encoded {
    Encoded(6, x.to_le_bytes().to_vec())
}

pub fn texts(items: &[String]) -> Encoded {
    let mut bytes = 8u32.to_le_bytes().to_vec();
    bytes.extend((items.len() as u64).to_le_bytes());
    items.iter().for_each(|item| bytes.extend(string(item)));
    Encoded(9, bytes)
}

pub fn numbers(items: &[i32]) -> Encoded {
    let mut bytes = 5u32.to_le_bytes().to_vec();
    bytes.extend((items.len() as u64).to_le_bytes());
    items
        .iter()
        .for_each(|item| bytes.extend(item.to_le_bytes()));
    Encoded(9, bytes)
}

fn string(s: &str) -> Vec<u8> {
    let mut bytes = (s.len() as u64).to_le_bytes().to_vec();
    bytes.extend(s.as_bytes());
    bytes
}

#[derive(Clone)]
pub struct TinyTensor {
    pub dims: Vec<u64>,
    pub format: u32,
    pub data: Vec<u8>,
}

/// A file to be written; tests change what they want wrong.
#[derive(Clone)]
pub struct TinyFile {
    pub metadata: BTreeMap<String, Encoded>,
    pub tensors: BTreeMap<String, TinyTensor>,
}

impl TinyFile {
    pub fn set(&mut self, key: &str, value: Encoded) -> &mut Self {
        self.metadata.insert(key.to_owned(), value);
        self
    }

    /// The file's bytes, and how many of them are header.
    pub fn bytes(&self) -> (Vec<u8>, usize) {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, Encoded(kind, bytes)) in &self.metadata {
            out.extend(string(key));
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        }
        let mut offset = 0u64;
        for (name, tensor) in &self.tensors {
            out.extend(string(name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(tensor.format.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + tensor.data.len() as u64).next_multiple_of(32);
        }
        let header = out.len();
        for tensor in self.tensors.values() {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.data);
        }
        (out, header)
    }
}

/// Numbers that look random and are the same everywhere (Steele et al.'s SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// From -1 to 1.
    fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// An f16 by its bits: 2^exponent.
fn power(exponent: i32) -> [u8; 2] {
    (((exponent + 15) as u16) << 10).to_le_bytes()
}

fn tensor(random: &mut Numbers, dims: &[u64], format: u32) -> TinyTensor {
    let elements: u64 = dims.iter().product();
    let blocks = elements / 32;
    let mut data = vec![];
    match format {
        F32 => (0..elements).for_each(|_| data.extend((random.number() * 0.3).to_le_bytes())),
        // Half precision around ±0.25, by bits.
        F16 => (0..elements).for_each(|_| {
            let [low, high] = power(-2);
            let sign = (random.next() as u8) & 0x80;
            data.extend([low | random.next() as u8, high | sign]);
        }),
        Q4_0 => (0..blocks).for_each(|_| {
            data.extend(power(-5));
            data.extend(random.bytes(16));
        }),
        Q4_1 => (0..blocks).for_each(|_| {
            data.extend(power(-5));
            let [low, high] = power(-2);
            data.extend([low, high | 0x80]);
            data.extend(random.bytes(16));
        }),
        Q8_0 => (0..blocks).for_each(|_| {
            data.extend(power(-9));
            data.extend(random.bytes(32));
        }),
        other => panic!("format {other}"),
    }
    TinyTensor {
        dims: dims.to_vec(),
        format,
        data,
    }
}

pub const TEMPLATE: &str =
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}<e>{% endfor %}<s>assistant\n";

/// A whole, valid model.
pub fn model() -> TinyFile {
    let visible = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = ('\u{100}'..).zip((0..=255u8).filter(|&b| !visible(b)));
    let mut alphabet: Vec<(u8, char)> = (0..=255u8)
        .filter(|&b| visible(b))
        .map(|b| (b, char::from(b)))
        .collect();
    alphabet.extend(others.map(|(c, b)| (b, c)));
    alphabet.sort();
    let mut tokens: Vec<String> = alphabet.into_iter().map(|(_, c)| c.to_string()).collect();
    tokens.extend(["th", "the", "<s>", "<e>"].map(String::from));
    let mut types = vec![1; 258];
    types.extend([3, 3]);
    let vocabulary = tokens.len() as u64;

    let mut file = TinyFile {
        metadata: BTreeMap::new(),
        tensors: BTreeMap::new(),
    };
    file.set("general.architecture", text("llama"))
        .set("llama.block_count", number(LAYERS as u32))
        .set("llama.context_length", number(CONTEXT))
        .set("llama.embedding_length", number(WIDTH as u32))
        .set("llama.feed_forward_length", number(FEED_FORWARD as u32))
        .set("llama.attention.head_count", number(HEADS as u32))
        .set("llama.attention.head_count_kv", number(KV_HEADS as u32))
        .set("llama.attention.layer_norm_rms_epsilon", float(1e-5))
        .set("llama.rope.freq_base", float(10_000.0))
        .set("llama.rope.dimension_count", number((WIDTH / HEADS) as u32))
        .set("llama.vocab_size", number(vocabulary as u32))
        .set("tokenizer.ggml.model", text("gpt2"))
        .set("tokenizer.ggml.pre", text("smollm"))
        .set("tokenizer.ggml.tokens", texts(&tokens))
        .set("tokenizer.ggml.token_type", numbers(&types))
        .set(
            "tokenizer.ggml.merges",
            texts(&["t h".into(), "th e".into()]),
        )
        .set("tokenizer.ggml.bos_token_id", number(258))
        .set("tokenizer.ggml.eos_token_id", number(259))
        .set("tokenizer.chat_template", text(TEMPLATE));

    let kv = KV_HEADS * WIDTH / HEADS;
    let mut random = Numbers(7);
    let mut add = |name: String, dims: &[u64], format| {
        file.tensors.insert(name, tensor(&mut random, dims, format));
    };
    for layer in 0..LAYERS {
        // One layer in 4 bits, one in the wider formats.
        let format = |four, wide| if layer == 0 { four } else { wide };
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        add(name("attn_norm"), &[WIDTH], F32);
        add(name("attn_q"), &[WIDTH, WIDTH], format(Q4_1, F16));
        add(name("attn_k"), &[WIDTH, kv], format(Q4_0, Q8_0));
        add(name("attn_v"), &[WIDTH, kv], format(Q4_1, F32));
        add(name("attn_output"), &[WIDTH, WIDTH], format(Q4_0, F16));
        add(name("ffn_norm"), &[WIDTH], F32);
        add(name("ffn_gate"), &[WIDTH, FEED_FORWARD], format(Q4_1, Q8_0));
        add(name("ffn_up"), &[WIDTH, FEED_FORWARD], format(Q4_0, F32));
        add(name("ffn_down"), &[FEED_FORWARD, WIDTH], format(Q4_1, Q8_0));
    }
    add("output_norm.weight".into(), &[WIDTH], F32);
    add("token_embd.weight".into(), &[WIDTH, vocabulary], Q8_0);
    file
}

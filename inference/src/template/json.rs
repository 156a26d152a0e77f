//! The filter `tojson` as Hugging Face's libraries have it: Python's `json.dumps` with `ensure_ascii=False`.
//!
//! minijinja's own writes no space after commas and colons and escapes `<`, which is another text for the
//! model to read.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// How deep arrays and objects may lie in one another.
const MAX_DEPTH: usize = 64;
/// Spaces per level.
const MAX_INDENT: usize = 16;

pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = options.get::<Option<usize>>("indent")?;
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    // Letters beyond ASCII are never escaped here.
    let escaped = options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    if escaped == Some(true) || indent.is_some_and(|n| n > MAX_INDENT) {
        return Err(refused("tojson with these options is not supported"));
    }
    let mut writer = Writer {
        out: String::new(),
        indent,
        sorted,
    };
    writer.value(value, 0)?;
    Ok(writer.out)
}

fn refused(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

struct Writer {
    out: String,
    indent: Option<usize>,
    sorted: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(refused("tojson of something nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value)?,
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.between('[', ']', &items, depth, |writer, item| {
                    writer.value(item, depth.saturating_add(1))
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.between('{', '}', &keys, depth, |writer, key| {
                    match key.as_str() {
                        Some(text) => writer.string(text),
                        None => return Err(refused("tojson of a key that is no text")),
                    }
                    writer.out.push_str(": ");
                    writer.value(&value.get_item(key)?, depth.saturating_add(1))
                })?;
            }
            _ => return Err(refused("tojson of something that is no JSON")),
        }
        Ok(())
    }

    fn between(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        depth: usize,
        mut write: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (i, item) in items.iter().enumerate() {
            match (i, self.indent) {
                (0, None) => {}
                (_, None) => self.out.push_str(", "),
                (0, Some(_)) => self.line(depth.saturating_add(1)),
                (_, Some(_)) => {
                    self.out.push(',');
                    self.line(depth.saturating_add(1));
                }
            }
            write(self, item)?;
        }
        if self.indent.is_some() && !items.is_empty() {
            self.line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        let spaces = self.indent.unwrap_or(0).saturating_mul(depth);
        self.out.push('\n');
        self.out.extend(std::iter::repeat_n(' ', spaces));
    }

    fn number(&mut self, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            self.out.push_str(&value.to_string());
            return Ok(());
        }
        let x = f64::try_from(value.clone())?;
        self.out.push_str(&python_float(x));
        Ok(())
    }

    fn string(&mut self, text: &str) {
        // Escapes what Python escapes: quotes, backslashes, and control characters, those with a letter by it.
        self.out
            .push_str(&serde_json::Value::String(text.to_owned()).to_string());
    }
}

/// As Python's `repr`: the shortest digits that give the number back, with an exponent from 1e16 on and below
/// 1e-4, which has at least two digits and a sign.
fn python_float(x: f64) -> String {
    if !x.is_finite() {
        return match (x.is_nan(), x > 0.0) {
            (true, _) => "NaN",
            (false, true) => "Infinity",
            (false, false) => "-Infinity",
        }
        .to_owned();
    }
    let size = x.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let scientific = format!("{x:e}");
        return match scientific.split_once('e') {
            Some((digits, exponent)) => {
                let (sign, exponent) = match exponent.strip_prefix('-') {
                    Some(exponent) => ('-', exponent),
                    None => ('+', exponent),
                };
                format!("{digits}e{sign}{exponent:0>2}")
            }
            None => scientific,
        };
    }
    format!("{x:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (x, wanted) in [
            (0.0, "0.0"),
            (-1.5, "-1.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1e300, "1e+300"),
        ] {
            assert_eq!(python_float(x), wanted);
        }
    }
}

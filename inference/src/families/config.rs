//! A checkpoint's `config.json`, in the one form that `crate::checkpoint` brings it to, read with care: it
//! may be a stranger's.

use serde_json::{Map, Value};

use crate::EngineError;

/// Any size in a configuration: widths, heads, layers, experts, context.
pub(crate) const MAX_SIZE: usize = 1 << 20;
/// Layers of one model.
pub(crate) const MAX_LAYERS: usize = 256;

/// One object of the configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Config<'c>(pub(crate) &'c Map<String, Value>);

impl<'c> Config<'c> {
    /// What is there and not `null`.
    fn get(&self, key: &str) -> Option<&'c Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn missing(key: &str) -> EngineError {
        EngineError::Config {
            key: key.to_owned(),
            wanted: "there",
        }
    }

    fn wrong(key: &str, wanted: &'static str) -> EngineError {
        EngineError::Config {
            key: key.to_owned(),
            wanted,
        }
    }

    /// An integer from 1 to [`MAX_SIZE`].
    pub(crate) fn size(&self, key: &str) -> Result<usize, EngineError> {
        let value = self.get(key).ok_or_else(|| Self::missing(key))?;
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=MAX_SIZE).contains(n))
            .ok_or_else(|| Self::wrong(key, "an integer from 1 to 1048576"))
    }

    /// The same, or what goes without saying.
    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize, EngineError> {
        match self.get(key) {
            None => Ok(default),
            Some(_) => self.size(key),
        }
    }

    /// An integer from 0 to [`MAX_SIZE`], 0 where it is absent.
    pub(crate) fn count(&self, key: &str) -> Result<usize, EngineError> {
        match self.get(key).map(Value::as_u64) {
            None | Some(Some(0)) => Ok(0),
            Some(_) => self.size(key),
        }
    }

    /// Number of layers.
    pub(crate) fn layers(&self) -> Result<usize, EngineError> {
        let layers = self.size("num_hidden_layers")?;
        if layers > MAX_LAYERS {
            return Err(Self::wrong("num_hidden_layers", "at most 256"));
        }
        Ok(layers)
    }

    /// A finite number above zero.
    pub(crate) fn float(&self, key: &str) -> Result<f64, EngineError> {
        let value = self.get(key).ok_or_else(|| Self::missing(key))?;
        value
            .as_f64()
            .filter(|x| x.is_finite() && *x > 0.0)
            .ok_or_else(|| Self::wrong(key, "a finite number above zero"))
    }

    /// A finite number from 0 on, or what goes without saying.
    pub(crate) fn float_or(&self, key: &str, default: f64) -> Result<f64, EngineError> {
        match self.get(key).map(Value::as_f64) {
            None => Ok(default),
            Some(Some(0.0)) => Ok(0.0),
            Some(_) => self.float(key),
        }
    }

    /// A boolean, or what goes without saying.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, EngineError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| Self::wrong(key, "true or false")),
        }
    }

    /// A string, or what goes without saying.
    pub(crate) fn text_or(&self, key: &str, default: &'c str) -> Result<&'c str, EngineError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_str().ok_or_else(|| Self::wrong(key, "a string")),
        }
    }

    /// Refuses a value that asks for something not computed here.
    pub(crate) fn expect_text(
        &self,
        key: &'static str,
        known: &[&'c str],
    ) -> Result<&'c str, EngineError> {
        let first = known.first().copied().unwrap_or_default();
        let found = self.text_or(key, first)?;
        if known.contains(&found) {
            return Ok(found);
        }
        Err(EngineError::Unsupported {
            feature: key,
            found: found.to_owned(),
        })
    }

    /// An object within.
    pub(crate) fn section(&self, key: &str) -> Option<Config<'c>> {
        self.get(key).and_then(Value::as_object).map(Config)
    }

    /// A list of strings within.
    pub(crate) fn texts(&self, key: &str) -> Option<Vec<&'c str>> {
        let list = self.get(key)?.as_array()?;
        list.iter().map(Value::as_str).collect()
    }
}

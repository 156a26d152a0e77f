//! Where values come from: file, environment, flags.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::problems::{ConfigError, from_figment};
use super::settings::{Flags, SETTINGS, SettingKind};
use crate::suggest;

/// Largest configuration file, bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Name of the file that is looked for in the data directory.
const FILE_IN_DATA_DIR: &str = "config.toml";
/// What all our environment variables begin with.
const PREFIX: &str = "COCOON_";
/// Variables with our prefix that are no settings: flags of other commands, and what builds and
/// tests use.
const NOT_SETTINGS: [&str; 14] = [
    "COCOON_CONFIG",
    "COCOON_URL",
    "COCOON_API_KEY",
    "COCOON_BUILD_COMMIT",
    "COCOON_MODELS",
    "COCOON_BIN",
    "COCOON_FAILPOINT",
    "COCOON_REQUIRE_MODEL",
    "COCOON_REQUIRE_CAPTURE",
    "COCOON_REQUIRE_FAILPOINTS",
    "COCOON_REQUIRE_UPSTREAM",
    "COCOON_REQUIRE_TON_CLIENTS",
    "COCOON_REQUIRE_GPU_FIXTURES",
    "COCOON_REQUIRE_NPM",
];
/// Variables beginning so are for tests.
const FOR_TESTS: &str = "COCOON_TEST_";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// This file.
    File(String),
    /// This variable.
    Environment(String),
    /// This flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

const FILE_LAYER: &str = "file ";
const ENVIRONMENT_LAYER: &str = "environment";
const FLAG_LAYER: &str = "command line";

/// Named values that are merged over others.
pub(super) struct Layer {
    name: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// The environment, as a value: tests do not change the process's own.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self::from_pairs(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }))
    }

    /// Made up.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// The settings among the variables. An empty variable is as good as none.
    pub(super) fn layer(&self) -> Result<Layer, ConfigError> {
        let mut values = Dict::new();
        for (variable, value) in &self.0 {
            let Some(name) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            if value.is_empty()
                || NOT_SETTINGS.contains(&variable.as_str())
                || variable.starts_with(FOR_TESTS)
            {
                continue;
            }
            let name = name.to_ascii_lowercase();
            let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else {
                return Err(ConfigError::Unknown {
                    name: variable.clone(),
                    origin: ENVIRONMENT_LAYER.to_owned(),
                    suggestion: suggest::nearest(&name, SETTINGS.iter().map(|s| s.name))
                        .map(variable_of),
                });
            };
            let value = match setting.kind {
                SettingKind::Text => Value::from(value.as_str()),
                SettingKind::List => Value::from(
                    value
                        .split(',')
                        .map(str::trim)
                        .filter(|item| !item.is_empty())
                        .map(Value::from)
                        .collect::<Vec<_>>(),
                ),
                // What is no number stays text, and is refused with its type and its origin.
                SettingKind::Number => value
                    .trim()
                    .parse::<u64>()
                    .map_or_else(|_| Value::from(value.as_str()), Value::from),
            };
            values.insert(name, value);
        }
        Ok(Layer {
            name: ENVIRONMENT_LAYER.to_owned(),
            values,
        })
    }
}

/// The flags that were given.
pub(super) fn flags(flags: &Flags) -> Result<Layer, ConfigError> {
    let given = Serialized::defaults(flags)
        .data()
        .map_err(|error| ConfigError::Internal {
            reason: error.to_string(),
        })?;
    let values = given.into_values().next().unwrap_or_default();
    Ok(Layer {
        name: FLAG_LAYER.to_owned(),
        values,
    })
}

/// Where the data lives, before any file is read: the file may be in there.
pub(super) fn data_dir(flags: &Flags, environment: &Environment) -> Result<PathBuf, ConfigError> {
    if let Some(given) = &flags.data_dir {
        return Ok(given.clone());
    }
    environment
        .get("COCOON_DATA_DIR")
        .map(PathBuf::from)
        .or_else(|| {
            environment
                .get("XDG_DATA_HOME")
                .map(|home| Path::new(home).join("cocoon"))
        })
        .or_else(|| {
            environment
                .get("HOME")
                .map(|home| Path::new(home).join(".local/share/cocoon"))
        })
        .ok_or(ConfigError::NoDataDir)
}

/// The file, if one is named or there is one in the data directory.
pub(super) fn file(
    flags: &Flags,
    environment: &Environment,
    data_dir: &Path,
) -> Result<Option<Layer>, ConfigError> {
    let named = flags
        .config
        .clone()
        .or_else(|| environment.get("COCOON_CONFIG").map(PathBuf::from));
    let (path, required) = match named {
        Some(path) => (path, true),
        None => (data_dir.join(FILE_IN_DATA_DIR), false),
    };
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return Ok(None),
        Err(source) => return Err(ConfigError::Unreadable { path, source }),
    };
    let values = Toml::string(&text)
        .data()
        .map_err(|error| ConfigError::NotToml {
            path: path.clone(),
            reason: error.to_string(),
        })?
        .into_values()
        .next()
        .unwrap_or_default();
    let layer = Layer {
        name: format!("{FILE_LAYER}{}", path.display()),
        values,
    };
    if !required && layer.values.contains_key("data_dir") {
        return Err(ConfigError::FileMovesItself { path });
    }
    // Here the file's name is known; figment would name the merged whole.
    Figment::from(Serialized::defaults(super::Config::default()))
        .merge(&layer)
        .extract::<super::Config>()
        .map_err(from_figment)?;
    Ok(Some(layer))
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read == MAX_FILE_BYTES) {
        return Err(std::io::Error::other(format!(
            "larger than {MAX_FILE_BYTES} bytes"
        )));
    }
    Ok(text)
}

/// Which layer a setting's value is from.
pub(super) fn origin(figment: &Figment, name: &str) -> Origin {
    let layer = figment
        .find_metadata(name)
        .map_or("", |metadata| metadata.name.as_ref());
    origin_of(layer, name)
}

/// From a layer's name to where a person finds the value.
pub(super) fn origin_of(layer: &str, name: &str) -> Origin {
    if let Some(path) = layer.strip_prefix(FILE_LAYER) {
        Origin::File(path.to_owned())
    } else if layer == ENVIRONMENT_LAYER {
        Origin::Environment(variable_of(name))
    } else if layer == FLAG_LAYER {
        Origin::Flag(format!("--{}", name.replace('_', "-")))
    } else {
        Origin::Default
    }
}

fn variable_of(name: &str) -> String {
    format!("{PREFIX}{}", name.to_ascii_uppercase())
}

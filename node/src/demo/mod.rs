//! The demo: a devnet, a bootstrap node, three workers and a client, each its own process. A
//! prompt is answered, paid for and settled, and a worker is killed on the way.

mod money;
mod story;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::command::demo::DemoArgs;
use crate::gateway_client::ClientError;
use crate::local_mesh::MeshError;
use crate::signals;

/// Why the demo stopped.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A process or the chain.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// A node's HTTP.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The chain.
    #[error(transparent)]
    Chain(#[from] cocoon_settlement::chain::ChainError),
    /// This machine.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The model is not there.
    #[error("there is no model at {0}; `make model` fetches it")]
    NoModel(PathBuf),
    /// Not with this binary.
    #[error(
        "the demo needs the simulated attestation root, and this binary was built without it; build with `--features simulated-evidence`"
    )]
    NoSimulator,
    /// Something came out otherwise than it must.
    #[error("{what}: expected {expected}, found {found}")]
    Wrong {
        /// What.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> DemoError {
    move |source| DemoError::Io { what, source }
}

/// Runs the demo.
///
/// # Errors
/// [`DemoError`]: the first step that did not do what it should.
pub fn run(args: &DemoArgs) -> Result<(), DemoError> {
    if !crate::build_info::SIMULATED_EVIDENCE {
        return Err(DemoError::NoSimulator);
    }
    if !args.model.is_file() {
        return Err(DemoError::NoModel(args.model.clone()));
    }
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io("starting a runtime"))?
        .block_on(async {
            let directory = Scratch::make()?;
            let told = story::tell(args, &directory.path).await;
            if told.is_err() {
                directory.keep();
            }
            let mesh = told?;
            if args.keep {
                mesh.how_to_talk();
                signals::stop_requested()
                    .await
                    .map_err(io("waiting for Ctrl-C"))?;
                println!("\nstopping the mesh");
            }
            mesh.stop()
        })
}

/// The demo's directory: removed at the end, kept after a failure.
struct Scratch {
    path: PathBuf,
    keep: std::cell::Cell<bool>,
}

impl Scratch {
    fn make() -> Result<Self, DemoError> {
        let path = std::env::temp_dir().join(format!("cocoon-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(io("making the demo's directory"))?;
        Ok(Self {
            path,
            keep: std::cell::Cell::new(false),
        })
    }

    fn keep(&self) {
        self.keep.set(true);
        eprintln!(
            "the logs of all processes are kept in {}",
            self.path.display()
        );
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.keep.get() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Says what is being done, and how long it took.
struct Steps {
    started: Instant,
    number: u8,
}

impl Steps {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            number: 0,
        }
    }

    fn begin(&mut self, title: &str) {
        self.number = self.number.saturating_add(1);
        println!(
            "\n── {} {title}  [{:.1} s]",
            self.number,
            self.started.elapsed().as_secs_f64()
        );
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Runs `work` behind a spinner, so that waiting looks like waiting.
async fn waiting<T>(what: &str, work: impl Future<Output = T>) -> T {
    let spinner = indicatif::ProgressBar::new_spinner().with_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    let result = work.await;
    spinner.finish_and_clear();
    result
}

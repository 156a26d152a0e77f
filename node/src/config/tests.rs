#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::path::Path;

use proptest::prelude::*;

use super::*;

/// A world with its own data directory and nothing else.
struct World {
    home: tempfile::TempDir,
    variables: Vec<(String, String)>,
    flags: Flags,
}

impl World {
    fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
            flags: Flags::default(),
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.home.path().join(".local/share/cocoon")
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn file(self, text: &str) -> Self {
        std::fs::create_dir_all(self.data_dir()).unwrap();
        std::fs::write(self.data_dir().join("config.toml"), text).unwrap();
        self
    }

    fn flags(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    fn load(&self) -> Result<Effective, ConfigError> {
        let home = ("HOME".to_owned(), self.home.path().display().to_string());
        let environment = Environment::from_pairs(self.variables.iter().cloned().chain([home]));
        Effective::load(&self.flags, &environment)
    }

    fn refusal(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

#[test]
fn without_anything_the_defaults_are_in_force_and_say_so() {
    let world = World::new();
    let effective = world.load().unwrap();
    assert_eq!(
        effective.config,
        Config {
            data_dir: world.data_dir(),
            ..Config::default()
        }
    );
    assert!(
        effective
            .origins
            .values()
            .all(|origin| *origin == Origin::Default)
    );
    assert!(effective.config.http_address.ip().is_loopback());
}

#[test]
fn flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults() {
    let file = "slots = 2\nmax_jobs = 2\nnetwork = \"two\"\nlisten = [\"/ip4/127.0.0.1/tcp/2\"]\n";
    let world = World::new()
        .file(file)
        .variable("COCOON_MAX_JOBS", "3")
        .variable("COCOON_NETWORK", "3")
        .variable(
            "COCOON_LISTEN",
            "/ip4/127.0.0.1/tcp/3, /ip4/127.0.0.1/udp/3/quic-v1,",
        )
        .flags(Flags {
            network: Some("four".to_owned()),
            ..Flags::default()
        });
    let Effective { config, origins } = world.load().unwrap();
    assert_eq!(
        (config.slots, config.max_jobs, config.network.as_str()),
        (2, 3, "four")
    );
    assert_eq!(
        config.listen,
        ["/ip4/127.0.0.1/tcp/3", "/ip4/127.0.0.1/udp/3/quic-v1"]
    );
    let path = world.data_dir().join("config.toml").display().to_string();
    assert_eq!(origins["slots"], Origin::File(path));
    assert_eq!(
        origins["max_jobs"],
        Origin::Environment("COCOON_MAX_JOBS".to_owned())
    );
    assert_eq!(origins["network"], Origin::Flag("--network".to_owned()));
    assert_eq!(origins["chain_url"], Origin::Default);
}

#[test]
fn a_text_that_looks_like_a_number_stays_a_text() {
    let world = World::new().variable("COCOON_NETWORK", "7");
    assert_eq!(world.load().unwrap().config.network, "7");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_highest_layer_that_sets_a_number_wins(
        file in prop::option::of(1u64..1000),
        variable in prop::option::of(1u64..1000),
        flag in prop::option::of(1u64..1000),
    ) {
        let mut world = World::new()
            .flags(Flags { price_output_nanoton: flag, ..Flags::default() });
        if let Some(value) = file {
            world = world.file(&format!("price_output_nanoton = {value}\n"));
        }
        if let Some(value) = variable {
            world = world.variable("COCOON_PRICE_OUTPUT_NANOTON", &value.to_string());
        }
        let effective = world.load().unwrap();
        let expected = flag.or(variable).or(file)
            .unwrap_or(Config::default().price_output_nanoton);
        prop_assert_eq!(effective.config.price_output_nanoton, expected);
        let layer = match effective.origins["price_output_nanoton"] {
            Origin::Flag(_) => 3,
            Origin::Environment(_) => 2,
            Origin::File(_) => 1,
            Origin::Default => 0,
        };
        let expected = if flag.is_some() { 3 } else if variable.is_some() { 2 }
            else { i32::from(file.is_some()) };
        prop_assert_eq!(layer, expected);
    }
}

#[test]
fn every_setting_has_a_name_a_field_and_a_flag() {
    let fields = serde_json::to_value(Config::default()).unwrap();
    let mut fields: Vec<_> = fields.as_object().unwrap().keys().cloned().collect();
    fields.sort_unstable();
    let mut names: Vec<_> = SETTINGS
        .iter()
        .map(|setting| setting.name.to_owned())
        .collect();
    names.sort_unstable();
    assert_eq!(fields, names);

    let command = <Flags as clap::Args>::augment_args(clap::Command::new("test"));
    let mut flags: Vec<_> = command
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .filter(|long| *long != "config")
        .map(|long| long.replace('-', "_"))
        .collect();
    flags.sort_unstable();
    assert_eq!(flags, names);
}

#[test]
fn a_name_that_does_not_exist_is_refused_with_the_nearest_and_its_place() {
    let world = World::new().file("htp_address = \"127.0.0.1:1\"\n");
    let said = world.refusal();
    assert!(
        said.contains("`htp_address`") && said.contains("`http_address`"),
        "{said}"
    );
    assert!(said.contains("config.toml"), "{said}");
    let said = World::new().variable("COCOON_SLOT", "2").refusal();
    assert_eq!(
        said,
        "unknown setting `COCOON_SLOT` (environment); did you mean `COCOON_SLOTS`?"
    );
    let said = World::new().file("banana = 1\n").refusal();
    assert!(said.contains("cocoon config"), "{said}");
}

#[test]
fn variables_of_builds_and_tests_are_no_settings() {
    let world = World::new()
        .variable("COCOON_MODELS", "/somewhere")
        .variable("COCOON_TEST_ANYTHING", "1")
        .variable("COCOON_SLOTS", "");
    assert_eq!(world.load().unwrap().config.slots, Config::default().slots);
}

#[test]
fn a_value_of_a_wrong_type_is_refused_with_its_name_and_place() {
    let said = World::new().variable("COCOON_SLOTS", "many").refusal();
    assert!(
        said.starts_with("slots (environment COCOON_SLOTS):"),
        "{said}"
    );
    assert!(said.contains("many"), "{said}");
    let said = World::new().file("slots = 100000\n").refusal();
    assert!(said.starts_with("slots (file "), "{said}");
    let said = World::new().variable("COCOON_ROLE", "boss").refusal();
    assert!(
        said.starts_with("role (environment COCOON_ROLE):"),
        "{said}"
    );
    let said = World::new()
        .variable("COCOON_HTTP_ADDRESS", "localhost")
        .refusal();
    assert!(said.starts_with("http_address ("), "{said}");
    let said = World::new().file("slots = = 1\n").refusal();
    assert!(said.contains("is not valid TOML"), "{said}");
}

#[test]
fn a_named_file_must_exist_and_one_in_the_data_directory_need_not() {
    let missing = Flags {
        config: Some(PathBuf::from("/nowhere/c.toml")),
        ..Flags::default()
    };
    let said = World::new().flags(missing).refusal();
    assert!(
        said.contains("cannot read the configuration /nowhere/c.toml"),
        "{said}"
    );
    World::new().load().unwrap();
}

#[test]
fn a_file_in_the_data_directory_cannot_move_it() {
    let said = World::new().file("data_dir = \"/elsewhere\"\n").refusal();
    assert!(said.contains("--config"), "{said}");
}

fn problems(world: &World) -> Vec<&'static str> {
    match world.load().unwrap().validate() {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid(problems)) => {
            problems.iter().map(|problem| problem.name).collect()
        }
        Err(other) => panic!("{other}"),
    }
}

fn worker(model: &Path) -> Flags {
    let peer = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWGJHYbWBQbaqCZDDMHLLAUaMpHF1y5r8rjZ8KZYXSWAQk";
    Flags {
        role: Some(NodeRole::Worker),
        bootstrap: vec![peer.to_owned()],
        model_path: Some(model.to_owned()),
        ..Flags::default()
    }
}

#[test]
fn a_complete_worker_is_valid() {
    let world = World::new();
    let model = world.home.path().join("model.gguf");
    std::fs::write(&model, "x").unwrap();
    let flags = worker(&model);
    let world = world.flags(flags);
    assert_eq!(problems(&world), Vec::<&str>::new());
    assert_eq!(world.load().unwrap().validate().unwrap(), NodeRole::Worker);
}

#[test]
fn everything_that_is_wrong_is_told_at_once_with_why_and_what_to_do() {
    let world = World::new().flags(Flags {
        role: Some(NodeRole::Worker),
        network: Some("Dev Net".to_owned()),
        listen: vec!["127.0.0.1:1".to_owned()],
        slots: Some(0),
        credit_window_nanoton: Some(1),
        chain_url: Some("localhost:1".to_owned()),
        ..Flags::default()
    });
    assert_eq!(
        problems(&world),
        [
            "network",
            "listen",
            "bootstrap",
            "chain_url",
            "model_path",
            "slots",
            "credit_window_nanoton"
        ]
    );
    let said = world.load().unwrap().validate().unwrap_err().to_string();
    assert!(
        said.contains(
            "slots = 0 (flag --slots): a worker without slots takes no jobs; use 1 or more"
        ),
        "{said}"
    );
}

#[test]
fn an_upstream_server_is_on_the_loopback_and_told_which_model_is_meant() {
    let world = World::new();
    let model = world.home.path().join("model.gguf");
    std::fs::write(&model, "x").unwrap();
    let with = |url: Option<&str>, name: Option<&str>| {
        let flags = Flags {
            upstream: url.map(str::to_owned),
            upstream_model: name.map(str::to_owned),
            ..worker(&model)
        };
        World::new().flags(flags)
    };
    let none: [&str; 0] = [];
    assert_eq!(
        problems(&with(Some("http://127.0.0.1:8000/v1"), Some("m"))),
        none
    );
    assert_eq!(
        problems(&with(Some("http://127.0.0.1:8000/v1"), None)),
        ["upstream_model"]
    );
    assert_eq!(problems(&with(None, Some("m"))), ["upstream_model"]);
    let elsewhere = with(Some("http://10.0.0.1:8000/v1"), Some("m"));
    assert_eq!(problems(&elsewhere), ["upstream"]);
    let said = elsewhere
        .load()
        .unwrap()
        .validate()
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("plain text") && said.contains("--upstream"),
        "{said}"
    );
}

#[test]
fn a_pinned_canary_is_a_digest() {
    let world = World::new();
    let model = world.home.path().join("model.gguf");
    std::fs::write(&model, "x").unwrap();
    let with = |canary: &str| {
        World::new().flags(Flags {
            canary: Some(canary.to_owned()),
            ..worker(&model)
        })
    };
    assert_eq!(problems(&with(&"0a".repeat(32))), Vec::<&str>::new());
    for bad in ["", "0a", &"0g".repeat(32)] {
        assert_eq!(problems(&with(bad)), ["canary"], "{bad}");
    }
}

#[test]
fn a_role_must_be_chosen_and_a_bootstrap_must_name_its_peer() {
    assert_eq!(problems(&World::new()), ["role"]);
    let nameless = Flags {
        role: Some(NodeRole::Client),
        bootstrap: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
        ..Flags::default()
    };
    assert_eq!(
        problems(&World::new().flags(nameless)),
        ["bootstrap", "policy_path"]
    );
}

#[test]
fn simulated_evidence_needs_a_binary_that_was_built_with_it() {
    let flags = Flags {
        role: Some(NodeRole::Bootstrap),
        evidence: Some(EvidenceSource::Simulated),
        ..Flags::default()
    };
    let expected: &[&str] = if crate::build_info::SIMULATED_EVIDENCE {
        &[]
    } else {
        &["evidence"]
    };
    assert_eq!(problems(&World::new().flags(flags)), expected);
}

#[test]
fn the_table_of_the_effective_configuration_has_every_setting() {
    let world = World::new().variable("COCOON_SLOTS", "4");
    let rows = world.load().unwrap().rows().unwrap();
    assert_eq!(rows.len(), SETTINGS.len());
    let slots = rows.iter().find(|row| row.0 == "slots").unwrap();
    assert_eq!(slots.1, "4");
    assert_eq!(slots.2, Origin::Environment("COCOON_SLOTS".to_owned()));
    let role = rows.iter().find(|row| row.0 == "role").unwrap();
    assert_eq!(role.1, "");
}

const BOOTSTRAP: &str =
    "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWGJHYbWBQbaqCZDDMHLLAUaMpHF1y5r8rjZ8KZYXSWAQk";

#[test]
fn limits_of_money_that_could_not_work_are_named() {
    let client = Flags {
        role: Some(NodeRole::Client),
        bootstrap: vec![BOOTSTRAP.to_owned()],
        locked_nanoton: Some(1),
        unused_channel_s: Some(0),
        ..Flags::default()
    };
    assert_eq!(
        problems(&World::new().flags(client)),
        ["locked_nanoton", "unused_channel_s", "policy_path"]
    );
    let worker = Flags {
        role: Some(NodeRole::Worker),
        bootstrap: vec![BOOTSTRAP.to_owned()],
        claim_fee_multiple: Some(0),
        credit_client_windows: Some(0),
        credit_total_windows: Some(0),
        total_risk_nanoton: Some(1),
        ..Flags::default()
    };
    let found = problems(&World::new().flags(worker));
    for name in [
        "claim_fee_multiple",
        "credit_client_windows",
        "credit_total_windows",
        "total_risk_nanoton",
    ] {
        assert!(found.contains(&name), "{name} in {found:?}");
    }
}

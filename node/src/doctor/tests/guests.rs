//! Guests that are half made.

use std::io::ErrorKind;

use super::named;
use super::world::{EVENT_LOG, QUOTE, RTMR3, World, ran};
use crate::config::EngineDevice;
use crate::doctor::{Outcome, Ran};
use Outcome::{Missing, NotApplicable, Ok as Fine, Warning};

#[test]
fn a_host_of_guests_is_told_from_a_guest() {
    let world = World::plain_vm();
    world.cpu("fpu vme sse2 vmx tme tdx_host_platform");
    world.expect("tdx guest", Missing, "this is a host of TDX guests");
    // Kernels that do not show the flag say it through the module.
    world.cpu("fpu vme sse2 vmx tme");
    world.expect("tdx guest", Missing, "no hypervisor");
    world.write("/sys/module/kvm_intel/parameters/tdx", "Y\n");
    world.expect("tdx guest", Missing, "this is a host of TDX guests");
    assert!(world.find("tdx guest").next.contains("inside a guest"));
}

#[test]
fn machines_without_tdx_are_told_apart() {
    let world = World::plain_vm();
    world.expect("tdx guest", Missing, "a virtual machine without tdx_guest");
    world.remove("/proc/cpuinfo");
    world.expect("tdx guest", Missing, "cannot be read");
    // A word that only begins so is another flag.
    world.cpu("hypervisor tdx_guest_soon");
    world.expect("tdx guest", Missing, "without tdx_guest");
}

#[test]
fn a_kernel_is_judged_by_what_it_shows_before_its_number() {
    let world = World::healthy();
    let kernel = |release: &str| world.write("/proc/sys/kernel/osrelease", release);
    kernel("6.16.0-rc1\n");
    world.expect("kernel", Fine, "6.16.0-rc1");
    kernel("7.0\n");
    world.expect("kernel", Fine, "7.0");
    kernel("6.8.0-1021-intel\n");
    world.expect("kernel", Fine, "carried back");
    kernel("mainline\n");
    world.expect("kernel", Warning, "no version");
    kernel("6.15.9\n");
    world.remove(RTMR3);
    world.expect("kernel", Missing, "no measurement registers");
    kernel("6.6.30\n");
    world.remove("/sys/kernel/config/tsm");
    world.expect("kernel", Missing, "too old for quotes");
}

#[test]
fn a_guest_in_which_configfs_is_not_mounted() {
    let world = World::healthy();
    world.write("/proc/mounts", "sysfs /sys sysfs rw 0 0\n");
    world.remove("/sys/kernel/config/tsm");
    world.expect("configfs", Missing, "not mounted");
    world.expect("tsm reports", Missing, "configfs is not mounted");
    world.expect("quote", Missing, "no reports to ask");
    assert_eq!(
        named(&world, Missing),
        ["configfs", "tsm reports", "tsm provider", "quote"]
    );
    assert!(world.find("configfs").next.contains("mount -t configfs"));
}

#[test]
fn a_guest_whose_driver_is_not_loaded() {
    let world = World::healthy();
    world.remove("/sys/kernel/config/tsm");
    world.expect("tsm reports", Missing, "though configfs is mounted");
    assert!(
        world
            .find("tsm reports")
            .next
            .contains("modprobe tdx_guest")
    );
}

#[test]
fn another_technologys_provider_is_refused_by_name() {
    let mut world = World::healthy();
    world.says.report = Some(Ok(("sev_guest", Ok(QUOTE.to_vec()))));
    world.expect("tsm provider", Missing, "\"sev_guest\"");
    world.expect("quote", Missing, "not asked for");
}

#[test]
fn a_report_that_cannot_be_made_says_why() {
    let mut world = World::healthy();
    world.says.report = Some(Err(ErrorKind::PermissionDenied));
    world.expect("tsm provider", Missing, "by this user");
    assert!(world.find("tsm provider").next.contains("root"));
    world.says.report = Some(Err(ErrorKind::Other));
    world.expect("tsm provider", Missing, "no report can be made");
}

#[test]
fn a_host_without_a_quoting_service_is_told_what_to_start() {
    let mut world = World::healthy();
    world.says.report = Some(Ok(("tdx_guest", Err(ErrorKind::TimedOut))));
    world.expect("tsm provider", Fine, "tdx_guest");
    world.expect("quote", Missing, "none:");
    assert!(world.find("quote").next.contains("qgsd"));
    world.says.report = Some(Ok(("tdx_guest", Ok(vec![0; 1_024]))));
    world.expect("quote", Missing, "no quote with a certificate");
    world.says.report = Some(Ok(("tdx_guest", Ok(QUOTE.to_vec()))));
    world.expect("quote", Fine, "b0c06f000000");
}

#[test]
fn a_register_is_empty_or_somebody_was_there() {
    let world = World::healthy();
    world.expect("rtmr3", Fine, "empty");
    world.write(RTMR3, [7; 48]);
    world.expect("rtmr3", Warning, "0707");
    world.write(RTMR3, [0; 32]);
    world.expect("rtmr3", Missing, "32 bytes");
    world.remove(RTMR3);
    world.expect("rtmr3", Missing, "not there");
}

#[test]
fn an_event_log_is_one_or_is_called_something_else() {
    let world = World::healthy();
    world.expect("event log", Fine, "65536 bytes");
    world.write(EVENT_LOG, [0; 64]);
    world.expect("event log", Warning, "do not begin");
    world.write(EVENT_LOG, []);
    world.expect("event log", Warning, "do not begin");
    world.write(
        EVENT_LOG,
        vec![0; cocoon_protocol::evidence::MAX_EVENT_LOG_BYTES + 1],
    );
    world.expect("event log", Warning, "no evidence can carry");
    world.remove(EVENT_LOG);
    world.expect("event log", Warning, "not there");
}

fn with_a_card() -> World {
    let mut world = World::healthy();
    world.config.device = EngineDevice::Cuda;
    world.write(
        "/proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  590.12  Release Build\nGCC version: 13\n",
    );
    let on = "Confidential Compute CC status: ON\n";
    world.says.commands.insert("nvidia-smi", ran(on));
    world
}

#[test]
fn a_card_in_confidential_mode_is_ready() {
    let world = with_a_card();
    world.expect(
        "nvidia driver",
        Fine,
        "NVIDIA UNIX Open Kernel Module for x86_64 590.12",
    );
    world.expect("gpu cc mode", Fine, "on");
    world.expect("memory", NotApplicable, "not in this process's memory");
    assert!(world.report().ready);
}

#[test]
fn a_card_that_lets_the_host_in_is_not() {
    let mut world = with_a_card();
    let mut says = |answer| {
        world.says.commands.insert("nvidia-smi", answer);
        let finding = world.find("gpu cc mode");
        assert!(!finding.next.is_empty());
        (finding.outcome, finding.found)
    };
    assert_eq!(
        says(ran("CC status: OFF\n")),
        (Missing, "\"OFF\"".to_owned())
    );
    assert_eq!(says(ran("CC status: DEVTOOLS\n")).0, Missing);
    assert!(says(ran("")).1.contains("without a status"));
    let refused = Ran::default();
    assert!(says(Ok(refused)).1.contains("no such mode"));
    assert!(says(Err(ErrorKind::NotFound)).1.contains("not installed"));
    assert!(
        says(Err(ErrorKind::TimedOut))
            .1
            .contains("does not come back")
    );
    assert!(says(Err(ErrorKind::Other)).1.starts_with("nvidia-smi:"));
}

#[test]
fn a_card_without_a_driver_is_missing_one() {
    let world = with_a_card();
    world.remove("/proc/driver");
    world.expect("nvidia driver", Missing, "no driver");
}

//! The machine that the tests run on.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;

use crate::doctor::{Live, Machine as _, Place, Transport};

#[test]
fn a_program_answers_fails_or_is_not_there() {
    let run = |program, arguments: &[&str]| Live.run(program, arguments).unwrap();
    let said = run("echo", &["hello"]).unwrap();
    assert!(said.ok && said.said == "hello\n");
    assert!(!run("false", &[]).unwrap().ok);
    let error = run("no-such-program-anywhere", &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn a_port_that_somebody_has_is_not_free() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = Transport::Tcp(taken.local_addr().unwrap());
    let error = Live.bind(at).unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let any = Transport::Udp("127.0.0.1:0".parse().unwrap());
    Live.bind(any).unwrap().unwrap();
}

#[test]
fn only_another_machines_files_are_looked_for_below_its_root() {
    let (here, there) = (Place::new("/"), Place::new("/mnt/guest"));
    assert_eq!(here.path("/etc/x"), Path::new("/etc/x"));
    assert_eq!(here.path("model.gguf"), Path::new("model.gguf"));
    assert_eq!(there.path("/etc/x"), Path::new("/mnt/guest/etc/x"));
    assert_eq!(there.path("model.gguf"), Path::new("/mnt/guest/model.gguf"));
}

#[test]
fn a_plain_folder_is_no_configfs_and_is_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let report = Live.tsm_report(folder.path(), "tdx_guest").unwrap();
    assert_eq!(report.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let nowhere = folder.path().join("tsm/report");
    assert!(Live.tsm_report(&nowhere, "tdx_guest").unwrap().is_err());
}

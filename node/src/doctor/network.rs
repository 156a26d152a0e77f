//! Whether the addresses to listen on are free.

use std::io;
use std::net::{IpAddr, SocketAddr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::{Finding, Look, Patient, Transport};
use crate::wiring::{RUN_FILE, RunFile};

/// Addresses that are tried; a configuration with more is looked at in part.
const MAX_TRIED: usize = 16;

pub(super) fn examine(patient: &Patient<'_>) -> Vec<Finding> {
    let running = running(patient);
    let mut findings: Vec<_> = patient
        .config
        .listen
        .iter()
        .take(MAX_TRIED)
        .map(|address| {
            let look = Look::at(
                "listen address",
                address.clone(),
                "others reach this node there",
            );
            match address.parse().ok().as_ref().and_then(transport) {
                Some(at) => free(patient, look, at, running),
                None => look.not_applicable("neither TCP nor UDP on a fixed IP"),
            }
        })
        .collect();
    let http = patient.config.http_address;
    let look = Look::at(
        "http address",
        http.to_string(),
        "`cocoon status`, metrics and apps reach this node there",
    );
    findings.push(free(patient, look, Transport::Tcp(http), running));
    findings
}

/// The process of a node that runs on this data directory.
fn running(patient: &Patient<'_>) -> Option<u32> {
    let text = patient
        .place
        .text(patient.config.data_dir.join(RUN_FILE))
        .ok()?;
    let run: RunFile = serde_json::from_str(&text).ok()?;
    patient
        .place
        .exists(format!("/proc/{}", run.pid))
        .then_some(run.pid)
}

fn transport(address: &Multiaddr) -> Option<Transport> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(Transport::Tcp(SocketAddr::new(ip, port))),
        Protocol::Udp(port) => Some(Transport::Udp(SocketAddr::new(ip, port))),
        _ => None,
    }
}

fn free(patient: &Patient<'_>, look: Look, at: Transport, running: Option<u32>) -> Finding {
    match patient.machine.bind(at) {
        None => look.not_applicable(patient.not_live()),
        Some(Ok(())) => look.ok("free"),
        Some(Err(error)) if error.kind() == io::ErrorKind::AddrInUse => match running {
            Some(pid) => look.ok(format!("in use by this node, process {pid}")),
            None => look.missing(
                "another program listens there",
                "end it (ss -lntup names it), or choose another port",
            ),
        },
        Some(Err(error)) if error.kind() == io::ErrorKind::AddrNotAvailable => look.missing(
            "this machine has no such address",
            "use one that `ip addr` lists, or 0.0.0.0",
        ),
        Some(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => look.missing(
            "ports below 1024 are not for this user",
            "choose a port from 1024 on",
        ),
        Some(Err(error)) => look.missing(error.to_string(), "choose another address"),
    }
}

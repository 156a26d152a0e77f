//! What passes over the loopback interface, as `tcpdump` sees it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::needles::Needles;
use crate::program::skip;

/// Longest wait for tcpdump to have written what was sent.
const PATIENCE: Duration = Duration::from_secs(30);

/// A packet of the transports that matter here; anything else has port 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// IP protocol number: 6 is TCP, 17 UDP.
    pub protocol: u8,
    /// Source port.
    pub from: u16,
    /// Destination port.
    pub to: u16,
    /// What the transport carries.
    pub payload: Vec<u8>,
}

/// Everything that passed.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// In order.
    pub packets: Vec<Packet>,
}

/// A capture that runs.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Child,
    path: PathBuf,
    marker: UdpSocket,
}

/// Starts a capture, or says loudly why there is none (and fails with `COCOON_REQUIRE_CAPTURE=1`).
/// When this returns, everything that is sent from now on is captured.
pub fn start(path: &Path) -> Option<Capture> {
    let file = File::create(path).expect("a file for the capture");
    // To standard output: where tcpdump may write as which user differs between systems. A large buffer,
    // because a machine with two cores is busy with models meanwhile.
    let started = Command::new("tcpdump")
        .args(["-i", "lo", "-U", "-B", "131072", "-w", "-"])
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(Stdio::piped())
        .spawn();
    let mut tcpdump = match started {
        Ok(child) => child,
        Err(error) => {
            skip(
                "COCOON_REQUIRE_CAPTURE",
                &format!("no capture of the traffic: tcpdump: {error}"),
            );
            return None;
        }
    };
    let mut said = String::new();
    let mut lines = BufReader::new(tcpdump.stderr.take().expect("piped"));
    while !said.contains("listening on") {
        if lines.read_line(&mut said).expect("text") == 0 {
            let _ = tcpdump.wait();
            let why = format!("no capture of the traffic: {}", said.trim());
            skip("COCOON_REQUIRE_CAPTURE", &why);
            return None;
        }
    }
    tcpdump.stderr = Some(lines.into_inner());
    let marker = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let capture = Capture {
        tcpdump,
        path: path.to_owned(),
        marker,
    };
    capture.mark("begin");
    Some(capture)
}

impl Capture {
    /// Sends a datagram and waits until it is in the file: then so is all that was sent before.
    fn mark(&self, word: &str) {
        let address = self.marker.local_addr().expect("an address");
        let message = format!("cocoon-capture-{word}-{}", address.port());
        self.marker
            .send_to(message.as_bytes(), address)
            .expect("a datagram");
        let marker = Needles::new(vec![("the marker".to_owned(), message.into_bytes())]);
        let started = Instant::now();
        while marker
            .find(&std::fs::read(&self.path).expect("the capture"))
            .is_empty()
        {
            assert!(
                started.elapsed() < PATIENCE,
                "tcpdump does not write what is sent"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the capture and reads it. Fails if tcpdump was too slow for anything.
    #[must_use]
    pub fn stop(mut self) -> Traffic {
        self.mark("end");
        let pid = self.tcpdump.id().to_string();
        let asked = Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .expect("kill");
        assert!(asked.success());
        let mut said = String::new();
        for line in BufReader::new(self.tcpdump.stderr.take().expect("piped")).lines() {
            said.push_str(&line.expect("text"));
            said.push('\n');
        }
        self.tcpdump.wait().expect("tcpdump's end");
        assert!(
            said.contains("\n0 packets dropped by kernel"),
            "packets were missed: {said}"
        );
        Traffic::parse(&std::fs::read(&self.path).expect("the capture"))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

impl Traffic {
    /// Reads a capture file: the classic format, of an Ethernet-like interface, as
    /// draft-ietf-opsawg-pcap has it.
    fn parse(bytes: &[u8]) -> Self {
        const HEADER: usize = 24;
        const RECORD: usize = 16;
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(
            number(0),
            0xa1b2_c3d4,
            "a little-endian capture with microseconds"
        );
        assert_eq!(number(20), 1, "Ethernet");
        let mut packets = Vec::new();
        let mut at = HEADER;
        while at + RECORD <= bytes.len() {
            let (captured, original) = (number(at + 8), number(at + 12));
            assert_eq!(captured, original, "a packet was cut off");
            let start = at + RECORD;
            at = start + usize::try_from(captured).unwrap();
            packets.push(packet(&bytes[start..at]));
        }
        assert_eq!(at, bytes.len(), "a whole number of packets");
        Self { packets }
    }

    /// Packets from or to a port.
    pub fn of_port(&self, port: u16) -> impl Iterator<Item = &Packet> {
        self.packets
            .iter()
            .filter(move |packet| packet.from == port || packet.to == port)
    }

    /// What each flow carried in each direction, its packets joined in the order in which they came,
    /// without flows from or to `port`.
    #[must_use]
    pub fn flows_without(&self, port: u16) -> BTreeMap<(u8, u16, u16), Vec<u8>> {
        let mut flows = BTreeMap::new();
        for packet in &self.packets {
            if packet.from != port && packet.to != port {
                let key = (packet.protocol, packet.from, packet.to);
                let flow: &mut Vec<u8> = flows.entry(key).or_default();
                flow.extend(&packet.payload);
            }
        }
        flows
    }
}

fn packet(frame: &[u8]) -> Packet {
    parse_transport(frame).unwrap_or_else(|| Packet {
        protocol: 0,
        from: 0,
        to: 0,
        payload: frame.to_vec(),
    })
}

/// Ethernet, then IPv4 or IPv6 without extension headers, then TCP or UDP.
fn parse_transport(frame: &[u8]) -> Option<Packet> {
    let ip = frame.get(14..)?;
    let (protocol, transport) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = usize::from(ip.first()? & 0xf) * 4;
            (*ip.get(9)?, ip.get(header..)?)
        }
        [0x86, 0xdd] => (*ip.get(6)?, ip.get(40..)?),
        _ => return None,
    };
    let port = |at: usize| {
        Some(u16::from_be_bytes(
            transport.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    let header = match protocol {
        6 => usize::from(transport.get(12)? >> 4) * 4,
        17 => 8,
        _ => return None,
    };
    Some(Packet {
        protocol,
        from: port(0)?,
        to: port(2)?,
        payload: transport.get(header..)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_apart() {
        let mut udp = vec![0; 12];
        udp.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]);
        udp.extend([127, 0, 0, 1, 127, 0, 0, 1]);
        udp.extend([0x04, 0xd2, 0x16, 0x2e, 0, 0, 0, 0]);
        udp.extend(b"payload");
        assert_eq!(
            packet(&udp),
            Packet {
                protocol: 17,
                from: 1234,
                to: 5678,
                payload: b"payload".to_vec()
            }
        );
        let strange = vec![1; 20];
        assert_eq!(
            packet(&strange).payload,
            strange,
            "what is not understood is kept whole"
        );
    }

    #[test]
    fn what_is_sent_between_start_and_stop_is_in_the_capture() {
        let directory = tempfile::tempdir().unwrap();
        let Some(capture) = start(&directory.path().join("capture")) else {
            return;
        };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        socket.send_to(b"something", ("127.0.0.1", port)).unwrap();
        let traffic = capture.stop();
        let seen: Vec<_> = traffic.of_port(port).collect();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].payload, b"something");
        let others = traffic.flows_without(port);
        assert!(
            others
                .values()
                .any(|flow| flow.starts_with(b"cocoon-capture-begin"))
        );
        assert!(!others.values().any(|flow| flow == b"something"));
    }
}

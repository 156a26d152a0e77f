//! The session's frames over a byte stream.

use crate::support::port::{boxed, streams};
use cocoon_actors::job::pipe::{Pipe, PipeError, Received};
use cocoon_actors::port::SessionStream;
use cocoon_protocol::Digest;
use cocoon_protocol::session::{EnclaveSecrets, MAX_FRAME_BYTES, SessionBinding, SessionError};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn binding(seed: u8) -> SessionBinding {
    SessionBinding {
        trust_domain: Digest::sha256(b"a root"),
        report_data: [seed; 64],
    }
}

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

async fn connect(stream: SessionStream, secrets: &EnclaveSecrets) -> Result<Pipe, PipeError> {
    let (noise, mlkem) = (secrets.noise_key(), secrets.mlkem_key());
    Pipe::connect(stream, &binding(1), noise, mlkem, &mut rng(2)).await
}

async fn accept(stream: SessionStream, secrets: &EnclaveSecrets) -> Result<Pipe, PipeError> {
    let keys = [(secrets, binding(1))];
    Ok(Pipe::accept(stream, &keys, &mut rng(3)).await?.0)
}

async fn shake_hands(client: SessionStream, worker: SessionStream) -> (Pipe, Pipe) {
    let secrets = EnclaveSecrets::generate(&mut rng(1));
    let (client, worker) = tokio::join!(connect(client, &secrets), accept(worker, &secrets));
    (client.unwrap(), worker.unwrap())
}

/// A frame that is recognisable, of this many bytes.
fn frame(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| u8::try_from((at * 31 + bytes) % 251).unwrap())
        .collect()
}

fn expect_frame(received: Result<Received, PipeError>) -> Vec<u8> {
    match received {
        Ok(Received::Frame(frame)) => frame,
        other => panic!("no frame: {other:?}"),
    }
}

#[tokio::test]
async fn frames_of_every_size_go_both_ways_at_once_over_a_stream_of_any_grain() {
    for grain in [1, 7, 4_096, 1 << 20] {
        let sizes: &[usize] = match grain {
            1 => &[0, 1, 500],
            7 => &[0, 1, 63, 64, 65, 5_000],
            _ => &[0, 1, 65_000, 70_000, 256 * 1024, MAX_FRAME_BYTES],
        };
        let (client, worker) = tokio::io::duplex(grain);
        let (mut client, mut worker) = shake_hands(boxed(client), boxed(worker)).await;
        for size in sizes {
            let there = async {
                client.send(&frame(*size)).await.unwrap();
                expect_frame(client.receive().await)
            };
            let back = async {
                let received = expect_frame(worker.receive().await);
                assert_eq!(received, frame(*size));
                worker.send(&received).await.unwrap();
            };
            let (echo, ()) = tokio::join!(there, back);
            assert_eq!(echo, frame(*size));
        }
        let (finished, end) = tokio::join!(client.finish(), worker.receive());
        finished.unwrap();
        assert!(matches!(end, Ok(Received::Fin)));
        // The other direction is still open.
        let (sent, words) = tokio::join!(worker.send(b"last words"), client.receive());
        sent.unwrap();
        assert_eq!(expect_frame(words), b"last words");
    }
}

/// A client's session whose stream passes only so many bytes after the handshake to the worker and
/// then ends. What the worker receives, and how many bytes there were in all.
async fn cut_after(bytes: usize, frames: &[Vec<u8>]) -> (Vec<Result<Received, PipeError>>, usize) {
    let (client, mut client_wire) = tokio::io::duplex(1 << 20);
    let (worker, mut worker_wire) = tokio::io::duplex(1 << 20);
    let secrets = EnclaveSecrets::generate(&mut rng(1));
    let wire = async {
        // Message 1 with its length, then message 2 back.
        let mut first = vec![0; 2 + 1_136];
        client_wire.read_exact(&mut first).await.unwrap();
        worker_wire.write_all(&first).await.unwrap();
        let mut second = vec![0; 2 + 48];
        worker_wire.read_exact(&mut second).await.unwrap();
        client_wire.write_all(&second).await.unwrap();
        let mut rest = Vec::new();
        client_wire.read_to_end(&mut rest).await.unwrap();
        let passed = rest.get(..bytes).unwrap_or(&rest);
        worker_wire.write_all(passed).await.unwrap();
        drop(worker_wire);
        rest.len()
    };
    let sending = async {
        let mut pipe = connect(boxed(client), &secrets).await.unwrap();
        for frame in frames {
            pipe.send(frame).await.unwrap();
        }
        pipe.finish().await.unwrap();
    };
    let receiving = async {
        let mut pipe = accept(boxed(worker), &secrets).await.unwrap();
        let mut received = Vec::new();
        loop {
            received.push(pipe.receive().await);
            if !matches!(received.last(), Some(Ok(Received::Frame(_)))) {
                return received;
            }
        }
    };
    let (total, (), received) = tokio::join!(wire, sending, receiving);
    (received, total)
}

#[tokio::test]
async fn a_stream_that_ends_before_the_session_does_is_an_error_wherever_it_is_cut() {
    let frames = [frame(10), frame(300)];
    let (whole, total) = cut_after(usize::MAX, &frames).await;
    assert!(matches!(whole.last(), Some(Ok(Received::Fin))));
    assert_eq!(whole.len(), 3);
    // At every byte near the borders of messages, and at some within.
    for cut in (0..total).filter(|cut| cut % 7 == 0 || total - cut < 90) {
        let (received, _) = cut_after(cut, &frames).await;
        assert!(
            matches!(
                received.last(),
                Some(Err(PipeError::Session(SessionError::Truncated)))
            ),
            "cut after {cut} bytes: {received:?}"
        );
    }
}

#[tokio::test]
async fn a_receive_that_is_given_up_loses_nothing() {
    let (client, worker) = tokio::io::duplex(3);
    let (mut client, mut worker) = shake_hands(boxed(client), boxed(worker)).await;
    let sizes: Vec<usize> = (0..40).map(|at| at * 13).collect();
    let wanted: Vec<_> = sizes.iter().map(|size| frame(*size)).collect();
    let sending = async move {
        for size in sizes {
            client.send(&frame(size)).await.unwrap();
        }
        client.finish().await.unwrap();
    };
    let receiving = async move {
        let (mut received, mut given_up) = (Vec::new(), 0);
        loop {
            tokio::select! {
                biased;
                next = worker.receive() => match next.unwrap() {
                    Received::Frame(frame) => received.push(frame),
                    Received::Fin => return (received, given_up),
                },
                () = tokio::task::yield_now() => given_up += 1,
            }
        }
    };
    let ((), (received, given_up)) = tokio::join!(sending, receiving);
    assert_eq!(received, wanted);
    assert!(given_up > 100, "only {given_up} receives were given up");
}

#[tokio::test]
async fn a_session_opens_only_with_the_keys_and_the_evidence_that_the_client_verified() {
    let [attested, other] = [1, 9].map(|seed| EnclaveSecrets::generate(&mut rng(seed)));

    // Somebody else's keys.
    let (client, worker) = streams();
    let (client, worker) = tokio::join!(connect(client, &attested), accept(worker, &other));
    assert!(matches!(worker.err(), Some(PipeError::Session(_))));
    assert!(matches!(
        client.err(),
        Some(PipeError::Session(SessionError::Truncated))
    ));

    // The right keys under other evidence.
    let (client, worker) = streams();
    let keys = [(&attested, binding(2))];
    let mut rng_worker = rng(3);
    let (client, worker) = tokio::join!(
        connect(client, &attested),
        Pipe::accept(worker, &keys, &mut rng_worker)
    );
    assert!(matches!(worker.err(), Some(PipeError::Session(_))));
    assert!(client.is_err());

    // The keys before the newest still count, and it is known which they were.
    let (client, worker) = streams();
    let keys = [(&other, binding(2)), (&attested, binding(1))];
    let (client, worker) = tokio::join!(
        connect(client, &attested),
        Pipe::accept(worker, &keys, &mut rng_worker)
    );
    assert!(client.is_ok());
    assert_eq!(worker.unwrap().1, 1);
}

#[tokio::test]
async fn garbage_is_a_typed_error_and_never_a_frame() {
    let secrets = EnclaveSecrets::generate(&mut rng(1));
    for garbage in [
        vec![],
        vec![0],
        vec![0, 0],
        vec![0xff; 3],
        vec![0; 5_000],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let (mut stranger, worker) = tokio::io::duplex(1 << 16);
        stranger.write_all(&garbage).await.unwrap();
        drop(stranger);
        let refused = accept(boxed(worker), &secrets).await;
        assert!(
            matches!(refused.err(), Some(PipeError::Session(_))),
            "{garbage:?}"
        );
    }
}

#[test]
fn debug_output_of_a_frame_holds_its_size_only() {
    let frame = Received::Frame(b"planted-secret".to_vec());
    assert_eq!(format!("{frame:?}"), "Frame(14 bytes)");
}

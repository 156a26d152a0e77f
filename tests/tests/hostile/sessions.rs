//! Strangers' bytes on the streams: before, in and after the handshake, and on the two question
//! protocols. What each of them was to the worker is read in its log, by the error's own words.

use cocoon::net::limits::MAX_REQUEST_BYTES;
use cocoon_protocol::evidence::{Claims, EvidenceReply, EvidenceRequest};
use cocoon_protocol::job::MAX_CLIENT_FRAME_BYTES;
use cocoon_protocol::negotiation::{Offer, QuoteReply, Refusal};
use cocoon_protocol::session::{
    Channel, EnclaveSecrets, Initiator, MESSAGE_1_BYTES, MESSAGE_2_BYTES, SessionBinding,
    SessionError, encode_message,
};
use cocoon_protocol::{
    ClientFrame, Digest, JobId, JobRequest, NanoTon, SignedVoucher, TonAddress, Voucher,
};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Stream;
use tokio::time::timeout;

use crate::buyer::{Buyer, PROMPT, SALT, binding, rng};
use crate::mesh::{LIMIT, wait};
use crate::rogue::{Rogue, garbage, rest};
use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_mean_nothing_end_with_the_stream_they_came_on() {
    let Some(mut scene) = Scene::set().await else {
        return;
    };
    garbage_instead_of_a_handshake(&mut scene).await;
    handshakes_for_other_keys(&mut scene).await;
    garbage_in_the_tunnel(&mut scene).await;
    garbage_instead_of_questions(&mut scene).await;
    more_questions_than_an_allowance(&mut scene).await;
    sessions_that_say_nothing(&mut scene).await;
    let ended = scene.worker.status().await.ended_jobs;
    let only_ours = [("completed".to_owned(), 1), ("rejected".to_owned(), 1)];
    assert_eq!(ended, only_ours.into(), "nothing else was a job");
    scene.honest_job("everything").await;
}

/// The worker told this error about this stranger.
async fn told(scene: &Scene, rogue: &Rogue, error: &impl ToString) {
    let (client, error) = (rogue.peer.to_string(), error.to_string());
    let log = scene.worker.node.process.log();
    wait(
        &format!("the worker tells `{error}` of {client}"),
        async || {
            let text = std::fs::read_to_string(log).unwrap();
            text.lines()
                .any(|line| line.contains(&client) && line.contains(&error))
        },
    )
    .await;
}

async fn garbage_instead_of_a_handshake(scene: &mut Scene) {
    let long = garbage(5_000);
    let message = |bytes: &[u8]| encode_message(bytes).unwrap();
    let rejected = SessionError::HandshakeRejected { message: 1 };
    let cases = [
        (Vec::new(), SessionError::Truncated),
        (
            long.clone(),
            SessionError::MessageTooLong {
                got: usize::from(u16::from_be_bytes([long[0], long[1]])),
                limit: MESSAGE_1_BYTES,
            },
        ),
        (
            vec![0, 3, 1, 2, 3],
            SessionError::MessageTooShort { got: 3 },
        ),
        (message(&garbage(MESSAGE_1_BYTES)), rejected),
        (
            message(&garbage(100)),
            SessionError::HandshakeLength {
                message: 1,
                expected: MESSAGE_1_BYTES,
                got: 100,
            },
        ),
        (
            message(&[0; MESSAGE_1_BYTES]),
            SessionError::WeakKey { message: 1 },
        ),
        (
            message(&garbage(MESSAGE_1_BYTES))[..600].to_vec(),
            SessionError::Truncated,
        ),
    ];
    for (bytes, error) in cases {
        let rogue = Rogue::connect(&scene.shop.address).await;
        let answer = rogue.say("session", &bytes).await;
        assert!(answer.is_empty(), "an answer to {error}");
        told(scene, &rogue, &error).await;
    }
    scene.assert_alive("garbage instead of a handshake").await;
}

async fn handshakes_for_other_keys(scene: &mut Scene) {
    let buyer = Buyer::of(&scene.shop).await;
    let offer = buyer.offer(PROMPT, 16).await;
    let claims = buyer.claims(offer.evidence).await;
    buyer.decline(&offer).await;
    let others = EnclaveSecrets::generate(&mut rng());

    let elsewhere = SessionBinding {
        trust_domain: Digest::sha256(b"another root"),
        ..binding(&claims)
    };
    for (binding, noise_key) in [
        (binding(&claims), others.noise_key()),
        (elsewhere, &claims.noise_key),
    ] {
        let rogue = Rogue::connect(&scene.shop.address).await;
        let (_, first) =
            Initiator::start(&binding, noise_key, &claims.mlkem_key, &mut rng()).unwrap();
        let answer = rogue.say("session", &encode_message(&first).unwrap()).await;
        assert!(answer.is_empty());
        told(
            scene,
            &rogue,
            &SessionError::HandshakeRejected { message: 1 },
        )
        .await;
    }

    // Another ML-KEM key: message 1 is in order, and what the worker answers tells the client that
    // there is no common secret.
    let (initiator, first) = Initiator::start(
        &binding(&claims),
        &claims.noise_key,
        others.mlkem_key(),
        &mut rng(),
    )
    .unwrap();
    let answer = buyer
        .rogue
        .say("session", &encode_message(&first).unwrap())
        .await;
    assert_eq!(answer.len(), 2 + MESSAGE_2_BYTES);
    assert_eq!(
        initiator.finish(&answer[2..]).err(),
        Some(SessionError::HandshakeRejected { message: 2 })
    );

    // A recorded message 1 is answered again, and whoever plays it can say nothing in the tunnel.
    let (_, first) = Initiator::start(
        &binding(&claims),
        &claims.noise_key,
        &claims.mlkem_key,
        &mut rng(),
    )
    .unwrap();
    let again = Rogue::connect(&scene.shop.address).await;
    let said = [
        encode_message(&first).unwrap(),
        encode_message(&garbage(80)).unwrap(),
    ]
    .concat();
    for rogue in [&buyer.rogue, &again] {
        assert_eq!(rogue.say("session", &said).await.len(), 2 + MESSAGE_2_BYTES);
        told(scene, rogue, &SessionError::Forged { index: 0 }).await;
    }
    scene.assert_alive("handshakes for other keys").await;
}

/// A tunnel whose wire is in our hands.
async fn tunnel(rogue: &Rogue, claims: &Claims) -> (Stream, Channel) {
    let mut stream = rogue.open("session").await;
    let (initiator, first) = Initiator::start(
        &binding(claims),
        &claims.noise_key,
        &claims.mlkem_key,
        &mut rng(),
    )
    .unwrap();
    stream
        .write_all(&encode_message(&first).unwrap())
        .await
        .unwrap();
    stream.flush().await.unwrap();
    let mut second = [0; 2 + MESSAGE_2_BYTES];
    timeout(LIMIT, stream.read_exact(&mut second))
        .await
        .expect("in time")
        .unwrap();
    (stream, initiator.finish(&second[2..]).unwrap())
}

fn sealed(channel: &mut Channel, frame: &[u8]) -> Vec<u8> {
    let messages = channel.seal(frame).unwrap();
    messages
        .iter()
        .flat_map(|message| encode_message(message).unwrap())
        .collect()
}

async fn garbage_in_the_tunnel(scene: &mut Scene) {
    let buyer = Buyer::of(&scene.shop).await;
    let offer: Offer = buyer.offer(PROMPT, 16).await;
    let claims = buyer.claims(offer.evidence).await;
    let voucher = SignedVoucher {
        voucher: Voucher {
            channel: scene.shop.payout,
            cumulative: NanoTon::from_nano(1),
        },
        signature: [7; 64],
    };
    let job = |chat: Vec<u8>| {
        let frame = ClientFrame::Job(JobRequest {
            job: JobId::from_bytes([7; 16]),
            offer: offer.id,
            channel: TonAddress {
                workchain: 0,
                hash: [7; 32],
            },
            chat,
            salt: SALT,
            terms: None,
        });
        frame.encode()
    };
    let (not_a_frame, oversize) = (garbage(200), garbage(MAX_CLIENT_FRAME_BYTES + 1));
    let (not_utf8, nothing) = (job(vec![0xff, 0xfe]), job(Vec::new()));
    let refused = |bytes: &[u8]| ClientFrame::decode(bytes).unwrap_err().to_string();
    let no_job = "the first frame is no job".to_owned();
    type Write<'a> = Box<dyn Fn(&mut Channel) -> Vec<u8> + 'a>;
    let seal = |frame: &[u8]| -> Write<'_> {
        let frame = frame.to_vec();
        Box::new(move |channel| sealed(channel, &frame))
    };
    let cases: Vec<(Write<'_>, String)> = vec![
        (
            Box::new(|_| encode_message(&garbage(80)).unwrap()),
            SessionError::Forged { index: 0 }.to_string(),
        ),
        (
            Box::new(|_| vec![0, 0]),
            SessionError::MessageTooShort { got: 0 }.to_string(),
        ),
        (
            // The first record of a frame of two, twice.
            Box::new(|channel| {
                let first = channel.seal(&[0; 100_000]).unwrap().swap_remove(0);
                let first = encode_message(&first).unwrap();
                [first.clone(), first].concat()
            }),
            SessionError::Forged { index: 1 }.to_string(),
        ),
        (
            Box::new(|channel| encode_message(&channel.seal_fin().unwrap()).unwrap()),
            no_job.clone(),
        ),
        (
            Box::new(|_| Vec::new()),
            SessionError::Truncated.to_string(),
        ),
        (seal(&not_a_frame), refused(&not_a_frame)),
        (seal(&oversize), refused(&oversize)),
        (seal(&not_utf8), refused(&not_utf8)),
        (seal(&nothing), refused(&nothing)),
        (
            seal(&ClientFrame::Voucher(voucher).encode()),
            no_job.clone(),
        ),
        (seal(&ClientFrame::Cancel.encode()), no_job),
    ];
    for (write, error) in cases {
        let rogue = Rogue::connect(&scene.shop.address).await;
        let (mut stream, mut channel) = tunnel(&rogue, &claims).await;
        // The worker may close before it has read everything.
        let _ = stream.write_all(&write(&mut channel)).await;
        let _ = stream.close().await;
        assert!(rest(&mut stream).await.is_empty(), "an answer to {error}");
        told(scene, &rogue, &error).await;
    }
    // None of these has used the offer up.
    let talk = buyer
        .job(&offer, scene.shop.payout, b"{}")
        .await
        .refusal()
        .await;
    assert_eq!(talk.code, cocoon_protocol::JobErrorCode::BadRequest);
    scene.assert_alive("garbage in the tunnel").await;
}

async fn garbage_instead_of_questions(scene: &mut Scene) {
    let rogue = Rogue::connect(&scene.shop.address).await;
    let too_long = u32::try_from(MAX_REQUEST_BYTES + 1).unwrap().to_be_bytes();
    let cut_short = [&100u32.to_be_bytes()[..], b"only this"].concat();
    for name in ["evidence", "offer"] {
        for bytes in [&[0xff; 9][..], &too_long, &cut_short, &garbage(10_000), b""] {
            assert!(rogue.say(name, bytes).await.is_empty());
        }
        // Framed as it should be, and no question of ours.
        for length in [0, 1, 100, MAX_REQUEST_BYTES] {
            assert_eq!(rogue.ask(name, &garbage(length)).await, None);
        }
    }
    scene.assert_alive("garbage instead of questions").await;

    let buyer = Buyer::of(&scene.shop).await;
    let unknown = EvidenceRequest {
        evidence: Digest::sha256(b"nobody's"),
    };
    let reply = buyer.rogue.ask("evidence", &unknown.encode()).await;
    assert_eq!(
        EvidenceReply::decode(&reply.unwrap()).unwrap(),
        EvidenceReply::NotFound
    );
    let mut request = scene.shop.request(PROMPT, 16);
    request.model_digest = Digest::sha256(b"other weights");
    let unknown = QuoteReply::Refused(Refusal::UnknownModel);
    assert_eq!(buyer.quote(&request).await, unknown);
    let mut request = scene.shop.request(PROMPT, 16);
    request.model = "a model nobody serves".to_owned();
    assert_eq!(buyer.quote(&request).await, unknown);
    for (prompt, output) in [(u32::MAX, u32::MAX), (scene.shop.terms.context_tokens, 1)] {
        assert_eq!(
            buyer.quote(&scene.shop.request(prompt, output)).await,
            QuoteReply::Refused(Refusal::TooLong {
                limit_tokens: scene.shop.terms.context_tokens
            })
        );
    }
    scene
        .assert_alive("questions that have no good answer")
        .await;
}

async fn more_questions_than_an_allowance(scene: &mut Scene) {
    let rogue = Rogue::connect(&scene.shop.address).await;
    let request = EvidenceRequest {
        evidence: Digest::sha256(b"again and again"),
    };
    let question = request.encode();
    let answers = futures::future::join_all((0..200).map(|_| rogue.ask("evidence", &question)));
    let answered = answers.await.iter().flatten().count();
    assert!((1..200).contains(&answered), "{answered} of 200 answered");
    scene.assert_alive("more questions than an allowance").await;
}

/// Sessions are held for the handshake's limit. One peer's are bounded, and those of a few peers
/// leave room for others.
async fn sessions_that_say_nothing(scene: &mut Scene) {
    let mut rogues = Vec::new();
    let mut held = Vec::new();
    for _ in 0..4 {
        let rogue = Rogue::connect(&scene.shop.address).await;
        for _ in 0..9 {
            let mut stream = rogue.open("session").await;
            // Half of a length, so that the stream is really there. The ninth is reset.
            let _ = stream.write_all(&[4]).await;
            let _ = stream.flush().await;
            held.push(stream);
        }
        rogues.push(rogue);
    }
    wait("the ninth of each is refused", async || {
        let refused = "cocoon_net_refused_total{what=\"session: limit\"}";
        scene.worker.metric(refused).await >= 4
    })
    .await;
    scene.honest_job("sessions that say nothing").await;
}

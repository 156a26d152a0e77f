//! Whole jobs that ask for more than one plain answer: several answers, log-probabilities, formats,
//! embeddings.

use crate::support::chain::TestChain;
use crate::support::model::{
    BAD_REGEX, MODEL, NOT_EMBEDDED, Scripted, embedding, likely, tokenizer, word,
};
use crate::support::nodes::{CLIENT, Client, Worker, WorkerSetup, chat, ended, price};
use crate::support::port::Hub;
use crate::support::system;
use cocoon_actors::gateway_port::{
    AnswerFormat, Completion, EmbeddingWish, Finish, Gateway as _, GatewayError, JobEvent,
    JobHandle, JobSubmission, Pooling, Usage,
};
use cocoon_actors::job::embedding::encode;
use cocoon_inference::Request;
use cocoon_protocol::receipt::{Receipt, SignedReceipt};
use cocoon_protocol::{Digest, JobErrorCode, Salt};
use std::sync::{Arc, Mutex};

const ONE: u8 = 2;
const TWO: u8 = 3;

struct Mesh {
    client: Client,
    worker: Worker,
    hub: Hub,
    chain: TestChain,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Mesh {
    async fn with(model: Scripted) -> Self {
        let (hub, chain) = (Hub::default(), TestChain::new(&[CLIENT]).await);
        let requests = Arc::clone(&model.requests);
        let client = Client::start(&hub, &chain);
        let worker = Worker::start(&hub, &chain, WorkerSetup::honest(ONE, model));
        client.verified(1).await;
        Self {
            client,
            worker,
            hub,
            chain,
            requests,
        }
    }

    async fn submit(&self, submission: JobSubmission) -> JobHandle {
        self.client.port.submit(submission).await.unwrap()
    }

    /// What opens the receipt of a job; the client has it.
    fn salt(&self, handle: &JobHandle) -> Salt {
        let ledger = &self.client.ledger;
        ledger.receipt(&handle.job()).unwrap().unwrap().salt
    }

    /// The receipt, which both ends have.
    async fn receipt(&self, handle: &JobHandle, completion: &Completion) -> Receipt {
        ended(&self.client.metrics, &[("completed", 1)]).await;
        ended(&self.worker.metrics, &[("completed", 1)]).await;
        let kept = self.client.ledger.receipt(&handle.job()).unwrap().unwrap();
        let signed = SignedReceipt::decode(&kept.receipt).unwrap();
        assert_eq!(signed.leaf().to_string(), completion.receipt);
        let entries = self.worker.ledger.entries(0, 10).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].credited, completion.cost);
        signed.verify().unwrap().into_inner()
    }
}

/// All that comes after the acceptance.
async fn all(handle: &mut JobHandle) -> Vec<JobEvent> {
    let mut events = Vec::new();
    while let Some(event) = handle.next().await {
        if !matches!(event, JobEvent::Accepted { .. }) {
            events.push(event);
        }
    }
    events
}

fn completed(event: Option<JobEvent>) -> Completion {
    match event {
        Some(JobEvent::Finished(completion)) => completion,
        other => panic!("not completed: {other:?}"),
    }
}

fn texts(input: &[&str], pooling: Pooling) -> JobSubmission {
    JobSubmission {
        model: MODEL.to_owned(),
        embedding: Some(EmbeddingWish {
            input: input.iter().map(|text| (*text).to_owned()).collect(),
            pooling,
        }),
        ..JobSubmission::default()
    }
}

#[test]
fn several_answers_are_one_job_whose_prompt_is_paid_for_once() {
    system(async {
        let mesh = Mesh::with(Scripted::of(20)).await;
        let asked = JobSubmission {
            n: Some(3),
            seed: Some(5),
            ..chat("three words long", 12)
        };
        let mut handle = mesh.submit(asked).await;
        let mut events = all(&mut handle).await;
        let completion = completed(events.pop());
        let mut answers = vec![String::new(); 3];
        let mut ids = vec![Vec::new(); 3];
        for event in events {
            let JobEvent::Delta(delta) = event else {
                panic!("{event:?}");
            };
            answers[usize::from(delta.choice)].push_str(&delta.text);
            ids[usize::from(delta.choice)].extend(delta.ids);
        }
        for (answer, seed) in answers.iter().zip(5..) {
            let words = (0..12).map(|at| format!("{seed}.{}", word(at)));
            assert_eq!(*answer, words.collect::<String>());
        }
        assert_eq!(completion.finishes, [Finish::Length; 3]);
        let usage = Usage {
            prompt_tokens: 3,
            completion_tokens: 36,
        };
        assert_eq!(completion.usage, usage);
        assert_eq!(completion.cost, price().cost(3, 36).unwrap());
        let receipt = mesh.receipt(&handle, &completion).await;
        assert_eq!((receipt.prompt_tokens, receipt.output_tokens), (3, 36));
        let salt = mesh.salt(&handle);
        assert_eq!(receipt.response_commitment, salt.response(&answers));
        assert_eq!(receipt.tokens_commitment, Some(salt.tokens(&ids)));
        assert_eq!(ids, vec![(0..12).collect::<Vec<u32>>(); 3]);
        assert_eq!(receipt.tokenizer, Some(tokenizer()));
    });
}

#[test]
fn each_of_several_answers_says_how_it_ended() {
    system(async {
        let mesh = Mesh::with(Scripted::of(4)).await;
        let asked = JobSubmission {
            n: Some(2),
            ..chat("hello", 9)
        };
        let mut handle = mesh.submit(asked).await;
        let completion = completed(all(&mut handle).await.pop());
        assert_eq!(completion.finishes, [Finish::Stop; 2]);
        assert_eq!(completion.usage.completion_tokens, 8);
    });
}

#[test]
fn a_clients_jobs_share_a_scope_that_says_nothing_of_the_client() {
    system(async {
        let mesh = Mesh::with(Scripted::of(2)).await;
        for n in [None, Some(2)] {
            let asked = JobSubmission {
                n,
                ..chat("hello", 9)
            };
            let mut handle = mesh.submit(asked).await;
            completed(all(&mut handle).await.pop());
        }
        let requests = mesh.requests.lock().unwrap();
        assert_eq!(requests.len(), 3);
        let scope = requests[0].scope.expect("a scope");
        assert!(requests.iter().all(|request| request.scope == Some(scope)));
        let plain = Digest::sha256(&mesh.client.peer.to_bytes());
        assert_ne!(&scope.0, plain.as_bytes());
    });
}

#[test]
fn log_probabilities_come_with_the_tokens_they_are_of_and_only_when_asked_for() {
    system(async {
        let mesh = Mesh::with(Scripted::of(20)).await;
        let asked = JobSubmission {
            top_logprobs: Some(2),
            ..chat("hello", 100)
        };
        let mut handle = mesh.submit(asked).await;
        let mut events = all(&mut handle).await;
        completed(events.pop());
        let mut positions = Vec::new();
        for event in events {
            let JobEvent::Delta(delta) = event else {
                panic!("{event:?}");
            };
            let said: Vec<u8> = delta
                .logprobs
                .iter()
                .flat_map(|each| each.chosen.token.clone())
                .collect();
            assert_eq!(said, delta.text.as_bytes());
            positions.extend(delta.logprobs);
        }
        assert_eq!(positions.len(), 20);
        for (at, position) in positions.iter().enumerate() {
            let wanted = likely(&word(at), 2);
            assert_eq!(position.chosen.logprob, wanted.chosen.logprob);
            let top: Vec<_> = position.top.iter().map(|each| each.token.clone()).collect();
            let others: Vec<_> = wanted.top.iter().map(|each| each.bytes.clone()).collect();
            assert_eq!(top, others);
        }
        let mut handle = mesh.submit(chat("hello", 100)).await;
        for event in all(&mut handle).await {
            if let JobEvent::Delta(delta) = event {
                assert_eq!(delta.logprobs, []);
            }
        }
    });
}

#[test]
fn a_format_that_the_engine_refuses_is_a_bad_request_that_names_it() {
    system(async {
        let mesh = Mesh::with(Scripted::of(2)).await;
        let asked = JobSubmission {
            response_format: Some(AnswerFormat::Regex {
                pattern: BAD_REGEX.to_owned(),
            }),
            ..chat("hello", 9)
        };
        let mut handle = mesh.submit(asked).await;
        let refused = GatewayError::BadRequest {
            field: Some("guided_regex".to_owned()),
            message: "guided_regex: unclosed character class".to_owned(),
        };
        assert_eq!(all(&mut handle).await, [JobEvent::Failed(refused)]);
        ended(&mesh.client.metrics, &[("rejected", 1)]).await;
        ended(&mesh.worker.metrics, &[("rejected", 1)]).await;
        assert!(mesh.worker.ledger.entries(0, 10).unwrap().is_empty());
        // The slot is free.
        let mut handle = mesh.submit(chat("hello", 9)).await;
        completed(all(&mut handle).await.pop());
    });
}

#[test]
fn embeddings_are_a_job_like_another_paid_as_its_prompt_and_one_token() {
    system(async {
        let mesh = Mesh::with(Scripted::of(0)).await;
        let input = ["one", "two words", "three words here"];
        let mut handle = mesh.submit(texts(&input, Pooling::Mean)).await;
        let mut events = all(&mut handle).await;
        let completion = completed(events.pop());
        let wanted = input.map(|text| embedding(text, Pooling::Mean, 3)).to_vec();
        assert_eq!(events, [JobEvent::Embeddings(wanted.clone())]);
        let usage = Usage {
            prompt_tokens: 6,
            completion_tokens: 1,
        };
        assert_eq!(completion.usage, usage);
        assert_eq!(completion.cost, price().cost(6, 1).unwrap());
        let receipt = mesh.receipt(&handle, &completion).await;
        let text = encode(&wanted).unwrap();
        let salt = mesh.salt(&handle);
        assert_eq!(receipt.response_commitment, salt.response(&[text]));
        // The one token that embeddings are paid as is none of the vocabulary.
        assert_eq!(receipt.tokens_commitment, None);
        assert_eq!((receipt.prompt_tokens, receipt.output_tokens), (6, 1));
    });
}

#[test]
fn embeddings_larger_than_a_frame_arrive_whole() {
    system(async {
        let mesh = Mesh::with(Scripted::embedding_in(8_000)).await;
        let input = ["a b"; 16];
        let mut handle = mesh.submit(texts(&input, Pooling::Last)).await;
        let mut events = all(&mut handle).await;
        completed(events.pop());
        let wanted = input
            .map(|text| embedding(text, Pooling::Last, 8_000))
            .to_vec();
        assert!(events == [JobEvent::Embeddings(wanted)], "{events:?}");
    });
}

#[test]
fn texts_beyond_the_context_are_refused_and_cost_nothing() {
    system(async {
        let mesh = Mesh::with(Scripted::of(0)).await;
        let long = "word ".repeat(600);
        let mut handle = mesh.submit(texts(&[long.as_str()], Pooling::Mean)).await;
        let events = all(&mut handle).await;
        assert!(
            matches!(
                events[..],
                [JobEvent::Failed(GatewayError::ContextTooLong { .. })]
            ),
            "{events:?}"
        );
        ended(&mesh.worker.metrics, &[("rejected", 1)]).await;
        assert!(mesh.worker.ledger.entries(0, 10).unwrap().is_empty());
    });
}

#[test]
fn where_one_engine_makes_no_embeddings_another_is_asked_and_nobody_is_blamed() {
    system(async {
        let mesh = Mesh::with(Scripted::of(0)).await;
        let other = Worker::start(
            &mesh.hub,
            &mesh.chain,
            WorkerSetup::honest(TWO, Scripted::of(0)),
        );
        mesh.client.verified(2).await;
        let mut handle = mesh.submit(texts(&[NOT_EMBEDDED], Pooling::Mean)).await;
        let events = all(&mut handle).await;
        let [JobEvent::Failed(GatewayError::WorkerFailed { reason, .. })] = &events[..] else {
            panic!("{events:?}");
        };
        assert!(
            reason.starts_with(JobErrorCode::Unsupported.label()),
            "{reason}"
        );
        ended(&mesh.worker.metrics, &[("rejected", 1)]).await;
        ended(&other.metrics, &[("rejected", 1)]).await;
        // Neither is paused, as one would be that broke its word.
        let mut handle = mesh.submit(texts(&["hello"], Pooling::Mean)).await;
        completed(all(&mut handle).await.pop());
    });
}

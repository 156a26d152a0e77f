//! A chain that goes away, and a channel that is closed together.

use cocoon::local_mesh::verified_workers;
use cocoon_protocol::NanoTon;
use cocoon_settlement::contract::fetch_channel;

use crate::api::ask;
use crate::mesh::{MODEL, Mesh, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_chain_a_job_ends_in_an_error_that_says_so_and_every_node_goes_on() {
    let Some(mut mesh) = Mesh::with_model().await else {
        return;
    };
    let mut worker = mesh.worker(&[]).await;
    let mut customer = mesh.client("customer", &[]).await;
    let mut newcomer = mesh.client("newcomer", &[]).await;
    for client in [&customer, &newcomer] {
        mesh.give(&client.node, NanoTon::from_nano(5 * NanoTon::PER_TON))
            .await;
        verified_workers(&client.node, 1).await.unwrap();
    }
    ask(&customer.node, MODEL, "Hello!", 8).await.unwrap();
    let channels = customer.status().await.channels;

    mesh.devnet.kill().unwrap();

    // No channel, and none can be opened.
    let error = ask(&newcomer.node, MODEL, "Hello!", 8).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (402, "payment_failed"));
    assert!(
        error.message.contains("no answer from http://"),
        "{}",
        error.message
    );
    // A channel, which the worker cannot look at.
    let error = ask(&customer.node, MODEL, "Hello!", 8).await.unwrap_err();
    assert_eq!((error.status, error.code.as_str()), (502, "worker_failed"));
    assert!(
        error.message.contains("no answer from http://"),
        "{}",
        error.message
    );

    for (node, after) in [
        (&mut worker, "the chain, at the worker"),
        (&mut customer, "the chain, at the customer"),
        (&mut newcomer, "the chain, at the newcomer"),
    ] {
        node.assert_alive(after).await;
    }
    let signed = |channels: &[cocoon_actors::gateway_port::ChannelStatus]| {
        channels.iter().map(|c| c.signed_nanoton).sum::<u64>()
    };
    assert_eq!(
        signed(&customer.status().await.channels),
        signed(&channels),
        "nothing was signed for nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_channel_is_closed_together_and_the_rest_is_back_without_the_delay() {
    let Some(mesh) = Mesh::with_model().await else {
        return;
    };
    // A short answer earns less than ten fees; this worker closes together all the same.
    let worker = mesh.worker(&[("release-fee-multiple", "0")]).await;
    let client = mesh.client("customer", &[("unused-channel-s", "2")]).await;
    mesh.give(&client.node, NanoTon::from_nano(5 * NanoTon::PER_TON))
        .await;
    verified_workers(&client.node, 1).await.unwrap();
    ask(&client.node, MODEL, "Hello!", 8).await.unwrap();
    let signed = client.status().await.channels[0].signed_nanoton;
    assert!(signed > 0);

    wait("the rest is back", async || {
        let funds = client.node.http.funds().await.unwrap();
        let paying = funds.paying.expect("a client's funds");
        paying.channels.is_empty() && !paying.reclaimed.is_empty()
    })
    .await;
    let funds = client.node.http.funds().await.unwrap();
    let back = &funds.paying.unwrap().reclaimed[0];
    let state = fetch_channel(&mesh.chain, back.address.parse().unwrap())
        .await
        .unwrap()
        .unwrap();
    assert!(state.finished);
    assert_eq!(state.close_at, None, "nobody waited for a delay");
    assert_eq!(
        state.claimed.nano(),
        signed,
        "the worker has all that was signed"
    );
    // All the deposit but that, the tombstone's reserve and fees below 0.001 TON.
    let rest = NanoTon::PER_TON - signed - back.returned_nanoton;
    assert!(rest < 4_000_000, "{rest} nanoTON are gone");
    worker.logs("a channel was closed together").await;
}

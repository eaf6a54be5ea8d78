//! Networks of sandboxes: what a spawn may ask for, what may be changed, what is told.

use std::sync::atomic::Ordering;

use stacyvm_provider::{Egress, Notice};
use stacyvm_types::{ErrorCode, EventId, NetworkRules, SandboxId};

use crate::tests::support::{Rig, code, eventually};
use crate::{Caller, EventFilter};

fn rules(domains: Option<&[&str]>) -> NetworkRules {
    NetworkRules {
        mode: None,
        allow_domains: domains.map(|all| all.iter().map(ToString::to_string).collect()),
    }
}

#[tokio::test]
async fn rules_that_make_no_sense_are_refused_before_anything_is_made() {
    let rig = Rig::new().await;
    rig.fake.networks.store(true, Ordering::SeqCst);
    let many = vec!["\"a.org\""; 257].join(",");
    let cases = [
        (
            r#"{"network":{"allow_domains":["a.org","a b"]}}"#.to_owned(),
            "allow_domains[1]",
        ),
        (
            r#"{"network":{"mode":"none","allow_domains":["a.org"]}}"#.to_owned(),
            "bridge",
        ),
        (r#"{"network":{"mode":"host"}}"#.to_owned(), "host"),
        (
            format!(r#"{{"network":{{"allow_domains":[{many}]}}}}"#),
            "256",
        ),
    ];
    for (body, names) in cases {
        let error = rig.try_spawn(&body).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadRequest, "{body}: {error}");
        assert!(error.to_string().contains(names), "{body}: {error}");
    }
    assert_eq!(rig.store.total_sandboxes().await.unwrap(), 0);
    rig.fake.networks.store(false, Ordering::SeqCst);
    let error = rig.try_spawn(r#"{"network":{"allow_domains":[]}}"#).await;
    assert_eq!(error.unwrap_err().code(), ErrorCode::Unsupported);
}

#[tokio::test]
async fn what_a_sandbox_may_reach_is_shown_and_changed_while_it_runs() {
    let rig = Rig::new().await;
    rig.fake.networks.store(true, Ordering::SeqCst);
    let sandbox = rig
        .spawn(r#"{"network":{"allow_domains":["Example.org","*.b.org"]}}"#)
        .await;
    let id = &sandbox.id;
    let now = rig.orchestrator.network(&rig.caller, id).await.unwrap();
    assert_eq!(now.mode, "bridge");
    assert_eq!(now.allow_domains.unwrap(), ["example.org", "*.b.org"]);

    let open = rig
        .orchestrator
        .set_network(&rig.caller, id, rules(None))
        .await
        .unwrap();
    assert_eq!(open.allow_domains, None);
    assert_eq!(rig.fake.egress.lock().unwrap()[&sandbox.id], Egress::Open);

    let set = |rules| rig.orchestrator.set_network(&rig.caller, id, rules);
    assert_eq!(
        code(set(rules(Some(&["a b"]))).await),
        ErrorCode::BadRequest
    );
    let mode = NetworkRules {
        mode: Some("none".to_owned()),
        allow_domains: None,
    };
    assert_eq!(code(set(mode).await), ErrorCode::BadRequest);
    assert_eq!(rig.fake.egress.lock().unwrap()[&sandbox.id], Egress::Open);

    let without = rig.spawn("{}").await;
    let set = rig
        .orchestrator
        .set_network(&rig.caller, &without.id, rules(None));
    assert_eq!(code(set.await), ErrorCode::Unsupported);
    let gone = SandboxId::from_u32(1);
    let asked = rig.orchestrator.network(&rig.caller, &gone);
    assert_eq!(code(asked.await), ErrorCode::NotFound);
}

#[tokio::test]
async fn what_providers_tell_becomes_events_of_the_sandbox() {
    let rig = Rig::new().await;
    let id = rig.spawn("{}").await.id;
    let mut events = rig
        .orchestrator
        .events(&Caller::default(), EventFilter::default(), Some(EventId(0)))
        .unwrap();
    rig.fake.notices.tell(Notice::Refused {
        id: SandboxId::from_u32(1),
        host: "of-nobody.org".to_owned(),
        port: None,
        reason: "not allowed".to_owned(),
    });
    rig.fake.notices.tell(Notice::Refused {
        id: id.clone(),
        host: "evil.org".to_owned(),
        port: Some(443),
        reason: "not allowed".to_owned(),
    });
    rig.fake.notices.tell(Notice::LimitReached {
        id: id.clone(),
        limit: "pids",
    });
    let mut heard = Vec::new();
    eventually("both are told", || {
        heard.extend(events.take());
        heard
            .iter()
            .any(|event| event.kind.as_str() == "resource.limit")
    })
    .await;
    let told: Vec<String> = heard
        .iter()
        .filter(|event| !event.kind.as_str().starts_with("sandbox."))
        .map(|event| {
            assert_eq!(event.sandbox_id.as_ref(), Some(&id));
            format!(
                "{} {}",
                event.kind,
                serde_json::to_string(&event.data).unwrap()
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            r#"network.refused {"host":"evil.org","port":443,"reason":"not allowed"}"#,
            r#"resource.limit {"limit":"pids"}"#,
        ]
    );
}

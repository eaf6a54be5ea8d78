//! One order, from the account to the certificate.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::client::Client;
use super::{AcmeError, AcmeSettings};
use crate::tls::hook;

/// How long the server may take to look at the records, and to make the certificate.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(180));

/// A record that was put.
struct Put {
    name: String,
    value: String,
}

fn server(step: &'static str) -> impl Fn(instant_acme::Error) -> AcmeError {
    move |error| AcmeError::Server(step, error)
}

/// The chain and the key, in PEM.
pub(super) async fn order(
    settings: &AcmeSettings,
    kept_account: &Path,
) -> Result<(String, String), AcmeError> {
    let account = account(settings, kept_account).await?;
    let names: Vec<_> = settings
        .domains
        .iter()
        .cloned()
        .map(Identifier::Dns)
        .collect();
    let order = account.new_order(&NewOrder::new(&names)).await;
    let mut order = order.map_err(server("order a certificate"))?;
    let mut put = Vec::new();
    let proved = prove(settings, &mut order, &mut put).await;
    for Put { name, value } in put {
        // A record that stays is untidy, not harmful: it proves nothing any more.
        let cleaned = hook::run(
            &settings.hook,
            settings.hook_timeout,
            "cleanup",
            &name,
            &value,
        );
        if let Err(error) = cleaned.await {
            tracing::warn!(%name, %error, "record of a certificate not removed");
        }
    }
    proved?;
    let mut params =
        CertificateParams::new(settings.domains.clone()).map_err(AcmeError::Request)?;
    params.distinguished_name = DistinguishedName::new();
    let key = KeyPair::generate().map_err(AcmeError::Request)?;
    let request = params.serialize_request(&key).map_err(AcmeError::Request)?;
    let finalized = order.finalize_csr(request.der()).await;
    finalized.map_err(server("take the request"))?;
    let chain = order.poll_certificate(&POLL).await;
    Ok((chain.map_err(server("issue"))?, key.serialize_pem()))
}

/// The account of an earlier time, or a new one, which is kept before it is used.
async fn account(settings: &AcmeSettings, kept: &Path) -> Result<Account, AcmeError> {
    let client = Client::new(settings.root.as_deref()).map_err(server("connect safely"))?;
    let builder = Account::builder_with_http(Box::new(client));
    let failed = |step| {
        move |source| AcmeError::File {
            step,
            path: kept.to_owned(),
            source,
        }
    };
    match std::fs::read(kept) {
        Ok(bytes) => {
            let known: AccountCredentials =
                serde_json::from_slice(&bytes).map_err(|error| failed("read")(error.into()))?;
            let account = builder.from_credentials(known).await;
            return account.map_err(server("open the account"));
        }
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("read")(error)),
        Err(_) => {}
    }
    if let Some(parent) = kept.parent() {
        std::fs::create_dir_all(parent).map_err(failed("make the directory of"))?;
    }
    let email = format!("mailto:{}", settings.email);
    let contact = [email.as_str()];
    let new = NewAccount {
        contact: if settings.email.is_empty() {
            &[]
        } else {
            &contact
        },
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let made = builder.create(&new, settings.directory.clone(), None).await;
    let (account, credentials) = made.map_err(server("make an account"))?;
    let bytes = serde_json::to_vec(&credentials).expect("credentials are always JSON");
    super::write(kept, &bytes)?;
    Ok(account)
}

/// All records are there before the server is told to look, since two names may share one.
async fn prove(
    settings: &AcmeSettings,
    order: &mut Order,
    put: &mut Vec<Put>,
) -> Result<(), AcmeError> {
    let mut open = order.authorizations();
    while let Some(one) = open.next().await {
        let mut one = one.map_err(server("say what to prove"))?;
        if one.status != AuthorizationStatus::Pending {
            continue;
        }
        let challenge = one.challenge(ChallengeType::Dns01);
        let challenge = challenge.ok_or_else(|| AcmeError::NotProved("dns-01".to_owned()))?;
        let domain = challenge.identifier().to_string();
        let domain = domain.strip_prefix("*.").unwrap_or(&domain);
        let record = Put {
            name: format!("_acme-challenge.{domain}"),
            value: challenge.key_authorization().dns_value(),
        };
        let (name, value) = (record.name.clone(), record.value.clone());
        // Before it runs: one that fails half way may have put it all the same.
        put.push(record);
        hook::run(
            &settings.hook,
            settings.hook_timeout,
            "present",
            &name,
            &value,
        )
        .await?;
    }
    let mut open = order.authorizations();
    while let Some(one) = open.next().await {
        let mut one = one.map_err(server("say what to prove"))?;
        if one.status == AuthorizationStatus::Pending
            && let Some(mut challenge) = one.challenge(ChallengeType::Dns01)
        {
            challenge
                .set_ready()
                .await
                .map_err(server("look at a record"))?;
        }
    }
    match order
        .poll_ready(&POLL)
        .await
        .map_err(server("look at the records"))?
    {
        OrderStatus::Ready | OrderStatus::Valid => Ok(()),
        _ => Err(AcmeError::NotProved(settings.domains.join(" "))),
    }
}

//! One order of a certificate, from the account to the certificate.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::client::AcmeClient;
use super::error::AcmeError;
use super::settings::AcmeSettings;
use super::storage::write;
use crate::tls::hook;

/// How long the server may take to check the records, and to issue the certificate.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(180));

/// A record that was added to DNS.
struct DnsRecord {
    name: String,
    value: String,
}

fn server(step: &'static str) -> impl Fn(instant_acme::Error) -> AcmeError {
    move |error| AcmeError::Server(step, error)
}

/// Orders a certificate. Returns its chain and its key, in PEM.
pub(super) async fn order(
    settings: &AcmeSettings,
    account_path: &Path,
) -> Result<(String, String), AcmeError> {
    let account = account(settings, account_path).await?;
    let names: Vec<_> = settings
        .domains
        .iter()
        .cloned()
        .map(Identifier::Dns)
        .collect();
    let order = account.new_order(&NewOrder::new(&names)).await;
    let mut order = order.map_err(server("order a certificate"))?;
    let mut records = Vec::new();
    let proved = prove(settings, &mut order, &mut records).await;
    for DnsRecord { name, value } in records {
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

/// Opens the stored account, or makes a new one, which is stored before it is used.
async fn account(settings: &AcmeSettings, path: &Path) -> Result<Account, AcmeError> {
    let client = AcmeClient::new(settings.root.as_deref()).map_err(server("connect safely"))?;
    let builder = Account::builder_with_http(Box::new(client));
    let failed = |step| {
        move |source| AcmeError::File {
            step,
            path: path.to_owned(),
            source,
        }
    };
    match std::fs::read(path) {
        Ok(bytes) => {
            let stored: AccountCredentials =
                serde_json::from_slice(&bytes).map_err(|error| failed("read")(error.into()))?;
            let account = builder.from_credentials(stored).await;
            return account.map_err(server("open the account"));
        }
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed("read")(error)),
        Err(_) => {}
    }
    if let Some(parent) = path.parent() {
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
    write(path, &bytes)?;
    Ok(account)
}

/// Proves the names to the server. All records are added before the server is told to check them,
/// because two names may share one record name.
async fn prove(
    settings: &AcmeSettings,
    order: &mut Order,
    records: &mut Vec<DnsRecord>,
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
        let record = DnsRecord {
            name: format!("_acme-challenge.{domain}"),
            value: challenge.key_authorization().dns_value(),
        };
        let (name, value) = (record.name.clone(), record.value.clone());
        // Before the hook runs, because one that fails may have added the record all the same.
        records.push(record);
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

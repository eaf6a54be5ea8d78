//! Images named by an untrusted client: a pull contacts no server in the machine's own network,
//! reveals nothing about what is there, and sends no login to another server.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use stacyvm_image::{Login, PullOptions, Reference, Secret};

use crate::builder::Image;
use crate::fixture::{Fixture, refusing, skip};
use crate::proxy::{Action, Proxy};
use crate::registry::{Registry, options, reference};

/// Options that name these servers and no other.
fn naming(servers: &[SocketAddr]) -> PullOptions {
    let mut options = options();
    options.registries.private.clear();
    options.registries.insecure = servers.iter().map(SocketAddr::to_string).collect();
    options.attempts = 1;
    options
}

fn with_login(mut options: PullOptions, registry: SocketAddr) -> PullOptions {
    let login = Login::Password {
        user: "me".to_owned(),
        password: Secret::new("word"),
    };
    let logins = &mut options.registries.credentials.logins;
    logins.insert(registry.to_string(), login);
    options
}

/// A port that listens and notices who comes.
fn open_port() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

#[track_caller]
fn nobody_came(listener: &TcpListener) {
    let come = listener.accept().map_err(|error| error.kind());
    assert_eq!(come.map(drop), Err(ErrorKind::WouldBlock));
}

/// What a pull says that fails.
#[track_caller]
fn said(image: &str, options: &PullOptions) -> String {
    let reference = Reference::parse(image).unwrap();
    let fixture = Fixture::new();
    let error = fixture.store.pull(&reference, options, &|_| {});
    error.unwrap_err().to_string()
}

/// A text without these ports.
fn without(text: &str, ports: &[u16]) -> String {
    ports.iter().fold(text.to_owned(), |text, port| {
        text.replace(&port.to_string(), "PORT")
    })
}

#[test]
fn this_machine_is_not_asked_unless_the_configuration_names_it() {
    let (open, named) = (open_port(), open_port());
    let (_bound, closed) = refusing();
    let address = open.local_addr().unwrap();
    let options = naming(&[named.local_addr().unwrap()]);
    let mut hosts = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    hosts.extend(["127.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "a.localhost"].map(str::to_owned));
    let own = rustix::system::uname()
        .nodename()
        .to_str()
        .unwrap()
        .to_owned();
    match (own.as_str(), 0).to_socket_addrs() {
        Ok(_)
            if own
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)) =>
        {
            hosts.push(own.to_ascii_lowercase());
        }
        _ => skip("needs a name of this machine that resolves"),
    }
    for host in hosts {
        let Ok(_) = Reference::parse(&format!("{host}:1/app")) else {
            continue;
        };
        let ports = [address.port(), closed.port()];
        let [to_open, to_closed] = ports.map(|port| {
            let said = said(&format!("{host}:{port}/app"), &options);
            without(&said, &ports)
        });
        assert_eq!(to_open, to_closed, "{host}");
        assert!(to_open.contains("images.private_registries"), "{to_open}");
    }
    nobody_came(&open);
    nobody_came(&named);
    for host in [
        "169.254.169.254",
        "10.0.0.1:5000",
        "192.168.1.1",
        "100.100.100.200",
    ] {
        let said = said(&format!("{host}/app"), &options);
        assert!(said.contains("images.private_registries"), "{said}");
    }
}

#[test]
fn an_open_range_tells_no_open_port_from_a_closed_one() {
    // Something that is no registry: it ends what it does not understand.
    let silent = Proxy::start("127.0.0.1:9".parse().unwrap(), |_| Action::Cut(0));
    let (_bound, closed) = refusing();
    let mut options = naming(&[]);
    options.registries.private = ["127.0.0.0/8".to_owned()].into();
    let ports = [silent.address.port(), closed.port()];
    let [open, closed] = ports.map(|port| {
        let said = said(&format!("127.0.0.1:{port}/app"), &options);
        without(&said, &ports)
    });
    assert_eq!(open, closed);
    assert!(closed.contains("no registry answers"), "{closed}");
}

#[test]
fn no_registry_sends_us_into_this_machine() {
    let open = open_port();
    let (_bound, closed) = refusing();
    let ports = [open.local_addr().unwrap().port(), closed.port()];
    let answers = ports.map(|port| {
        let by_redirect = move |asked: &crate::proxy::ProxiedRequest| match asked.path.as_str() {
            "/v2/" => Action::Answer(200, vec![], String::new()),
            _ => Action::Answer(
                307,
                vec![format!("location: http://127.0.0.1:{port}/secret")],
                String::new(),
            ),
        };
        let by_realm = move |asked: &crate::proxy::ProxiedRequest| match asked.path.as_str() {
            "/v2/" => Action::Answer(200, vec![], String::new()),
            _ => Action::Answer(
                401,
                vec![format!(
                    "www-authenticate: Bearer realm=\"http://localhost:{port}/token\""
                )],
                String::new(),
            ),
        };
        let unused = "127.0.0.1:9".parse().unwrap();
        [
            Proxy::start(unused, by_redirect),
            Proxy::start(unused, by_realm),
        ]
        .map(|registry| {
            let options = naming(&[registry.address]);
            let said = said(&format!("{}/app", registry.address), &options);
            assert!(said.contains("images.private_registries"), "{said}");
            without(&said, &[port, registry.address.port()])
        })
    });
    assert_eq!(answers[0], answers[1]);
    nobody_came(&open);
}

#[test]
fn a_login_goes_to_no_other_server_unless_the_configuration_says_so() {
    let elsewhere = Proxy::start("127.0.0.1:9".parse().unwrap(), |_| {
        Action::Answer(200, vec![], r#"{"token": "t0ken"}"#.to_owned())
    });
    let realm = elsewhere.address;
    let registry = Proxy::start("127.0.0.1:9".parse().unwrap(), move |asked| {
        match asked.authorization.as_deref() {
            _ if asked.path == "/v2/" => Action::Answer(200, vec![], String::new()),
            Some("Bearer t0ken") => Action::Answer(404, vec![], String::new()),
            _ => Action::Answer(
                401,
                vec![format!(
                    "www-authenticate: Bearer realm=\"http://{realm}/token\""
                )],
                String::new(),
            ),
        }
    });
    let image = format!("{}/app", registry.address);
    let anonymous = naming(&[registry.address, elsewhere.address]);
    let mut with_login = with_login(anonymous.clone(), registry.address);
    let refused = said(&image, &with_login);
    assert!(refused.contains("images.token_hosts"), "{refused}");
    assert!(refused.contains(&realm.to_string()), "{refused}");
    assert_eq!(elsewhere.asked().len(), 0);

    // Nothing is lost where there is no login.
    assert!(said(&image, &anonymous).contains("not found"));
    assert_eq!(elsewhere.asked()[0].authorization, None);

    let hosts = vec![realm.to_string()];
    let token_hosts = &mut with_login.registries.token_hosts;
    token_hosts.insert(registry.address.to_string(), hosts);
    assert!(said(&image, &with_login).contains("not found"));
    let basic = format!("Basic {}", STANDARD.encode("me:word"));
    assert_eq!(elsewhere.asked()[1].authorization, Some(basic));
}

#[test]
fn a_redirect_to_another_server_takes_no_login_along() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.put(&Image::small("x"), "app", "latest");
    let blobs = Proxy::counting(registry.address);
    let elsewhere = blobs.address;
    let own = Arc::new(OnceLock::<SocketAddr>::new());
    let here = Arc::clone(&own);
    let front = Proxy::start(registry.address, move |asked| {
        if asked.path != "/v2/" && asked.authorization.is_none() {
            let challenge = "www-authenticate: Basic realm=\"x\"".to_owned();
            return Action::Answer(401, vec![challenge], String::new());
        }
        let place = match asked.path.strip_prefix("/v2/app/blobs/") {
            Some(blob) if !blob.ends_with("?again") => {
                format!("http://{}/v2/app/blobs/{blob}?again", here.get().unwrap())
            }
            Some(blob) => format!(
                "http://{elsewhere}/v2/app/blobs/{}",
                blob.trim_end_matches("?again")
            ),
            None => return Action::Pass,
        };
        Action::Answer(307, vec![format!("location: {place}")], String::new())
    });
    own.set(front.address).unwrap();
    let options = with_login(naming(&[front.address, elsewhere]), front.address);
    let fixture = Fixture::new();
    let reference = reference(front.address, "app");
    fixture.store.pull(&reference, &options, &|_| {}).unwrap();
    let basic = format!("Basic {}", STANDARD.encode("me:word"));
    let again: Vec<_> = front.asked();
    let again = again.iter().filter(|asked| asked.path.ends_with("?again"));
    assert!(again.clone().count() >= 2);
    assert!(
        again
            .clone()
            .all(|asked| asked.authorization.as_ref() == Some(&basic))
    );
    assert!(blobs.asked().len() >= 2);
    assert!(
        blobs
            .asked()
            .iter()
            .all(|asked| asked.authorization.is_none())
    );
}

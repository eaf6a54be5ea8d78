use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::message::attributes;
use super::*;
use crate::netns;

/// Runs `work` on a thread in an empty network namespace that ends with it; none without root.
fn alone<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if !stacyvm_testing::root_or_skip() {
        return None;
    }
    let thread = std::thread::spawn(move || {
        let namespace = netns::make_on_thread().unwrap();
        crate::namespaces::enter(&namespace).unwrap();
        work()
    });
    Some(thread.join().unwrap())
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_pair_connects_two_namespaces() {
    alone(|| {
        let inner_space = netns::make_on_thread().unwrap();
        let mut outer = Netlink::open().unwrap();
        let pair = VethPair {
            outer: "left",
            inner: "eth0",
            inner_namespace: inner_space.as_fd(),
            hardware_address: [2, 0, 0, 0, 0, 1],
            mtu: 1400,
            group: 7,
        };
        outer.make_veth_pair(&pair).unwrap();
        assert_eq!(outer.make_veth_pair(&pair), Err(Errno::EXIST));
        assert_eq!(outer.link("eth0"), Err(Errno::NODEV));
        let left = outer.link("left").unwrap();
        assert_eq!(left.mtu, 1400);
        let settings = LinkSettings {
            forwarding: true,
            without_lookup: true,
        };
        outer.set_up(left.index, settings).unwrap();
        let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/conf/left/forwarding");
        assert_eq!(forwarding.unwrap(), "1\n");

        let home = netns::of_thread().unwrap();
        crate::namespaces::enter(&inner_space).unwrap();
        let mut inner = Netlink::open().unwrap();
        crate::namespaces::enter(&home).unwrap();
        let eth0 = inner.link("eth0").unwrap();
        assert!(inner.links().unwrap().iter().any(|link| link.name == "lo"));
        inner
            .set_up(
                eth0.index,
                LinkSettings {
                    forwarding: false,
                    ..settings
                },
            )
            .unwrap();
        for mine in ["10.0.0.2", "fd00::2"] {
            inner.add_address(eth0.index, address(mine)).unwrap();
            inner.add_address(eth0.index, address(mine)).unwrap();
        }
        for gateway in ["10.0.0.1", "fd00::1"] {
            let route = Route {
                to: None,
                prefix: 0,
                device: eth0.index,
                via: Some(address(gateway)),
                source: None,
            };
            inner.add_route(&route).unwrap();
            assert_eq!(inner.add_route(&route), Err(Errno::EXIST));
        }
        let defaults = inner.routes().unwrap();
        assert_eq!(
            defaults.iter().filter(|route| route.prefix == 0).count(),
            2,
            "{defaults:?}"
        );

        let route = Route {
            to: Some(address("10.0.0.2")),
            prefix: 32,
            device: left.index,
            via: None,
            source: None,
        };
        outer.add_route(&route).unwrap();
        let routes = outer.routes().unwrap();
        assert!(
            routes.contains(&RouteEntry {
                to: address("10.0.0.2"),
                prefix: 32,
                device: Some(left.index)
            }),
            "{routes:?}"
        );
        outer.remove_group(9).unwrap();
        outer.set_group(left.index, 9).unwrap();
        outer.remove_group(7).unwrap();
        assert!(outer.link("left").is_ok());
        assert_eq!(outer.remove_group(0), Err(Errno::INVAL));
        outer.remove_group(9).unwrap();
        outer.remove_link(left.index).unwrap();
        assert_eq!(
            inner.link("eth0"),
            Err(Errno::NODEV),
            "the other end is left"
        );
    });
}

#[test]
fn removed_rules_are_heard_of() {
    let nft = |commands: &str| {
        std::process::Command::new("nft")
            .arg(commands)
            .status()
            .is_ok_and(|status| status.success())
    };
    if !nft("--version") {
        return stacyvm_testing::skip("there is no nft");
    }
    alone(move || {
        let mut news = FilterWatch::open().unwrap();
        let quiet = RemovedFrom::Tables(BTreeSet::new());
        let (end, ending) = rustix::pipe::pipe().unwrap();
        let mut heard = |limit| news.wait(Duration::from_secs(limit), &end).unwrap();
        assert!(nft(
            "add table inet one; add chain inet one here; add rule inet one here accept"
        ));
        assert_eq!(heard(0), quiet);
        assert!(nft("add table inet other; flush chain inet one here"));
        assert_eq!(heard(20), RemovedFrom::Tables(["one".to_owned()].into()));
        assert!(nft("flush ruleset"));
        let both = ["one".to_owned(), "other".to_owned()];
        assert_eq!(heard(20), RemovedFrom::Tables(both.into()));
        drop(ending);
        assert_eq!(heard(1_000_000), quiet);
    });
}

#[test]
fn a_note_stays_on_an_interface() {
    alone(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.make_link("noted", "bridge").unwrap();
        let device = netlink.link("noted").unwrap().index;
        netlink.set_alias(device, "whose it is").unwrap();
        assert_eq!(netlink.link("noted").unwrap().alias, "whose it is");
        assert_eq!(
            netlink.make_link("noted", "bridge"),
            Err(Errno::EXIST),
            "a name was given twice"
        );
    });
}

#[test]
fn damaged_messages_end_and_nothing_is_read_past_them() {
    let mut whole = Message::new(libc::RTM_NEWLINK, 0);
    whole.link_header(3, 0, 0);
    whole.text(libc::IFLA_IFNAME, "eth0");
    let bytes = whole.finish(1);
    let (kind, sequence, body) = message::split(&bytes).next().unwrap();
    assert_eq!((kind, sequence), (libc::RTM_NEWLINK, 1));
    assert_eq!(read_link(body).unwrap().name, "eth0");
    for length in 0..bytes.len() {
        assert_eq!(message::split(&bytes[..length]).count(), 0);
    }
    // Up to where the name ends; what follows is filling.
    for length in 0..body.len() - 3 {
        if let Some(link) = read_link(&body[..length]) {
            assert_eq!((link.index, link.name.as_str()), (3, ""));
        }
    }
    // A length of nothing must not be read for ever.
    assert_eq!(attributes(&[0; 64]).count(), 0);
    assert_eq!(message::split(&[0; 64]).count(), 0);
}

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

/// A field with its length, of so many bytes, before it.
fn prefixed(width: usize, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&length[4 - width..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &prefixed(2, content)].concat()
}

fn names(names: &[&str]) -> Vec<u8> {
    let entries: Vec<u8> = names
        .iter()
        .flat_map(|name| [&[0][..], &prefixed(2, name.as_bytes())].concat())
        .collect();
    extension(0, &prefixed(2, &entries))
}

/// A handshake message with these extensions.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &prefixed(1, &[9; 32]),
        &prefixed(2, &[0x13, 1, 0x13, 2]),
        &prefixed(1, &[0]),
        &prefixed(2, &extensions.concat()),
    ]
    .concat();
    [&[1][..], &prefixed(3, &body)].concat()
}

/// The message in records of so many bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|piece| [&[22, 3, 1][..], &prefixed(2, piece)].concat())
        .collect()
}

fn hello_of(extensions: &[Vec<u8>]) -> Protocol {
    detect(&records(&message(extensions), MAX_RECORD))
}

fn named(name: &str) -> Protocol {
    Protocol::Tls(Some(name.as_bytes().to_vec()))
}

#[test]
fn finds_the_name_among_extensions() {
    let other = extension(43, &[2, 3, 4]);
    let name = names(&["a.example"]);
    assert_eq!(hello_of(std::slice::from_ref(&name)), named("a.example"));
    let among = [other.clone(), name.clone(), extension(0xfe0d, &[1; 200])];
    assert_eq!(hello_of(&among), named("a.example"));
    assert_eq!(hello_of(&[other]), Protocol::Tls(None));
    assert_eq!(hello_of(&[]), Protocol::Tls(None));
    // Clients of the last century end after the compression methods.
    let mut bare = message(&[]);
    bare.truncate(bare.len() - 2);
    bare[3] -= 2;
    assert_eq!(detect(&records(&bare, 100)), Protocol::Tls(None));
}

#[test]
fn what_could_be_read_in_two_ways_is_malformed() {
    let (a, b) = (names(&["a.example"]), names(&["b.example"]));
    assert_eq!(hello_of(&[a.clone(), b]), Protocol::Malformed);
    assert_eq!(
        hello_of(&[names(&["a.example", "b.example"])]),
        Protocol::Malformed
    );
    assert_eq!(hello_of(&[names(&[])]), Protocol::Malformed);
    assert_eq!(hello_of(&[names(&[""])]), Protocol::Malformed);
    assert_eq!(
        hello_of(&[extension(0, &[0, 3, 1, 0, 0])]),
        Protocol::Malformed
    );
    // Lengths that say more or less than is there.
    assert_eq!(hello_of(&[vec![0, 0, 0, 9, 0]]), Protocol::Malformed);
    let mut long = message(std::slice::from_ref(&a));
    long.push(0);
    assert_eq!(detect(&records(&long, 5000)), Protocol::Malformed);
    let mut inner = message(std::slice::from_ref(&a));
    *inner.last_mut().unwrap() = 0;
    inner[3] -= 1;
    inner.pop();
    assert_eq!(detect(&records(&inner, 5000)), Protocol::Malformed);
}

#[test]
fn what_is_too_long_is_not_waited_for() {
    // Announced, not sent.
    assert_eq!(
        detect(&[22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff]),
        Protocol::Malformed
    );
    assert_eq!(detect(&[22, 3, 1, 0xff, 0xff]), Protocol::Malformed);
    assert_eq!(detect(&[22, 3, 1, 0, 0]), Protocol::Malformed);
    assert_eq!(detect(&[22, 4]), Protocol::Malformed);
    assert_eq!(detect(&[22, 3, 1, 0, 4, 2, 0, 0, 4]), Protocol::Malformed);
    assert_eq!(
        detect(&[22, 3, 1, 0, 100, 1, 0, 0, 96, 3]),
        Protocol::Incomplete
    );
    let crumbs = records(&message(&[extension(21, &[0; 12_000])]), 1);
    assert!(crumbs.len() > MAX_BYTES);
    assert_eq!(detect(&crumbs[..MAX_BYTES]), Protocol::Malformed);
}

#[test]
fn requests_begin_with_a_method() {
    for (bytes, first) in [
        (&b""[..], Protocol::Incomplete),
        (b"G", Protocol::Incomplete),
        (b"GET", Protocol::Incomplete),
        (b"GET ", Protocol::Http),
        (b"PROPFIND /x", Protocol::Http),
        (b"PRI * HTTP/2.0\r\n", Protocol::Unknown),
        (b"get / HTTP/1.1", Protocol::Unknown),
        (b"GET\t/", Protocol::Unknown),
        (b"SSH-2.0-x", Protocol::Unknown),
        (b" GET /", Protocol::Unknown),
        (b"\r\nGET /", Protocol::Unknown),
        (b"\x15\x03\x03", Protocol::Unknown),
        (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Protocol::Unknown),
    ] {
        assert_eq!(detect(bytes), first, "{}", bytes.escape_ascii());
    }
}

proptest! {
    #[test]
    fn every_way_to_cut_it_says_the_same(
        name in "[a-z]{1,20}\\.example",
        size in 1..400_usize,
        padding in 0..600_usize,
        end in 0.0..1.0_f64,
    ) {
        let extensions = [extension(21, &vec![0; padding]), names(&[&name])];
        let bytes = records(&message(&extensions), size);
        prop_assert_eq!(detect(&bytes), named(&name));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let end = (bytes.len() as f64 * end) as usize;
        prop_assert_eq!(detect(&bytes[..end]), Protocol::Incomplete);
    }

    #[test]
    fn nothing_makes_it_stumble(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        place in 0..200_usize,
        value in any::<u8>(),
    ) {
        detect(&bytes);
        detect(&[&[22, 3, 1][..], &bytes].concat());
        let mut nearly = records(&message(&[names(&["a.example"]), extension(5, &[1; 40])]), 60);
        let place = place % nearly.len();
        nearly[place] = value;
        detect(&nearly);
    }
}

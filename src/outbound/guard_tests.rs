//! URLs that must not be called, URLs that may, and which switch opens which range.

use super::*;

/// With every scheme allowed, so that only the address decides.
fn strict() -> Guard {
    Guard { allow_http: true, ..Guard::default() }
}

/// Written in all ways that a URL parser takes for an address.
const LOOPBACK: [&str; 23] = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "0x7f000001",
    "0x7f.1",
    "0X7F.0.0.1",
    "017700000001",
    "0177.0.0.1",
    "0177.1",
    "2130706433",
    "127.0.0.1.",
    "127.000.000.001",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::FFFF:7F00:0001]",
    "%31%32%37.0.0.1",
    "１２７.0.0.1",
    "127。0。0。1",
    "0x7f.0x0.0x0.0x1",
    "0x7f.0.1",
];

const PRIVATE: [&str; 21] = [
    "10.0.0.1",
    "10.255.255.255",
    "0xa.1",
    "012.0.0.1",
    "167772161",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    "3232235521",
    "100.64.0.1",
    "100.127.255.255",
    "[::ffff:10.0.0.1]",
    "[::ffff:192.168.1.1]",
    "[::ffff:a00:1]",
    "[fc00::1]",
    "[fd12:3456::1]",
    "[fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]",
    "[FC00::]",
    "[::ffff:100.64.0.1]",
    "[::ffff:172.16.0.1]",
];

const SPECIAL: [&str; 66] = [
    "0.0.0.0",
    "0",
    "0x0",
    "0.1.2.3",
    "[::]",
    "[::ffff:0.0.0.0]",
    "169.254.0.1",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.175.48.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "254.1.2.3",
    "255.255.255.255",
    "0xffffffff",
    "[::127.0.0.1]",
    "[::10.0.0.1]",
    "[::8.8.8.8]",
    "[::2]",
    "[64:ff9b::a00:1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b::]",
    "[64:ff9b:1::1]",
    "[64:ff9b:1:ffff::a00:1]",
    "[100::1]",
    "[2001::1]",
    "[2001:0:7f00:1::]",
    "[2001:10::1]",
    "[2001:20::1]",
    "[2001:1ff::1]",
    "[2001:db8::1]",
    "[2002:7f00:1::]",
    "[2002:a00:1::1]",
    "[2002:808:808::1]",
    "[3ffe::1]",
    "[3fff::1]",
    "[3fff:fff::1]",
    "[4000::1]",
    "[5f00::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fe80::a9fe:a9fe]",
    "[febf::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[ff0e::1]",
    "[::ffff:0:127.0.0.1]",
];

const REFUSED_BY_FORM: [&str; 18] = [
    "",
    "handler",
    "//example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://h:70/_x",
    "data:,x",
    "unix:/run/x.sock",
    "javascript:1",
    "http://",
    "http://user@h/",
    "http://user:pw@h/",
    "http://:pw@h/",
    "http://h:0/",
    "http://h:65536/",
    "http://[fe80::1%25eth0]/",
    "http://127.0.0.1.1.1/",
    "http://a b/",
];

const FINE: [&str; 17] = [
    "http://example.com/",
    "https://example.com:8443/stepwell?x=1",
    "http://1.1.1.1/",
    "http://8.8.8.8:80/",
    "http://9.255.255.255/",
    "http://11.0.0.0/",
    "http://100.63.255.255/",
    "http://100.128.0.0/",
    "http://172.15.255.255/",
    "http://172.32.0.0/",
    "http://192.167.255.255/",
    "http://198.20.0.0/",
    "http://223.255.255.255/",
    "http://[2606:4700:4700::1111]/",
    "http://[64:ff9b::808:808]/",
    "http://[2001:4860:4860::8888]/",
    "http://[::ffff:8.8.8.8]/",
];

#[test]
fn literals_of_every_form_and_range_are_refused() {
    for host in LOOPBACK.iter().chain(&PRIVATE).chain(&SPECIAL) {
        for url in [format!("http://{host}/"), format!("https://{host}:8443/x")] {
            match strict().url(&url) {
                Err(Blocked::Address { .. }) => {}
                other => panic!("{url}: {other:?}"),
            }
        }
    }
    for url in REFUSED_BY_FORM {
        assert!(strict().url(url).is_err(), "{url}");
    }
    assert!(strict().url(&format!("http://h/{}", "x".repeat(3000))).is_err());
    for url in FINE {
        assert!(strict().url(url).is_ok(), "{url}: {:?}", strict().url(url));
    }
}

#[test]
fn each_switch_opens_its_own_range_and_no_other() {
    let loopback = Guard { allow_loopback: true, ..strict() };
    let private = Guard { allow_private: true, ..strict() };
    let open = |guard: &Guard, hosts: &[&str]| {
        hosts.iter().filter(|h| guard.url(&format!("http://{h}/")).is_ok()).count()
    };
    assert_eq!(open(&loopback, &LOOPBACK), LOOPBACK.len());
    assert_eq!(open(&loopback, &PRIVATE), 0);
    assert_eq!(open(&private, &PRIVATE), PRIVATE.len());
    assert_eq!(open(&private, &LOOPBACK), 0);
    assert_eq!(open(&Guard::dev(), &SPECIAL), 0);
    let net = |text: &str| text.parse::<Net>().expect("a range");
    let listed = Guard { allow: vec![net("10.1.0.0/16"), net("::1")], ..strict() };
    for (host, ok) in [
        ("10.1.2.3", true),
        ("[::ffff:10.1.2.3]", true),
        ("10.2.0.1", false),
        ("[::1]", true),
        ("127.0.0.1", false),
    ] {
        assert_eq!(open(&listed, &[host]) == 1, ok, "{host}");
    }
}

#[test]
fn http_is_for_development() {
    let said = Guard::default().url("http://example.com/").expect_err("not https");
    assert!(matches!(said, Blocked::Scheme { .. }), "{said}");
    assert!(Guard::default().url("https://example.com/").is_ok());
    assert!(Guard::dev().url("http://127.0.0.1:3000/").is_ok());
}

#[test]
fn the_gateways_own_ports_are_no_handlers() {
    let guard = Guard { own_ports: vec![8484, 443], ..Guard::dev() };
    for own in
        ["http://127.0.0.1:8484/", "http://10.0.0.5:8484/", "https://127.1/", "http://[::1]:8484"]
    {
        assert!(matches!(guard.url(own), Err(Blocked::Own { .. })), "{own}");
    }
    assert!(guard.url("http://127.0.0.1:8485/").is_ok());
    assert!(guard.url("https://1.1.1.1/").is_ok());
    let listed = Guard { allow: vec!["127.0.0.1".parse().expect("a range")], ..guard };
    assert!(listed.url("http://127.0.0.1:8484/").is_ok());
}

#[test]
fn ranges_are_read_strictly() {
    for bad in ["", "10", "10.0.0.0/33", "::/129", "10.0.0.0/x", "10.0.0.0/", "example.com"] {
        assert!(bad.parse::<Net>().is_err(), "{bad}");
    }
    let everything: Net = "0.0.0.0/0".parse().expect("a range");
    assert!(everything.contains(Ipv4Addr::BROADCAST.into()));
    assert!(!everything.contains(Ipv6Addr::LOCALHOST.into()));
}

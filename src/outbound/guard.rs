//! Which addresses a handler may have: the table of ranges, and the check of a URL before use.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use url::{Host, Url};

/// The longest URL of a handler, in bytes.
const MAX_URL: usize = 2048;

/// What kind of place an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Anywhere on the internet.
    Public,
    /// This machine.
    Loopback,
    /// A network of one's own.
    Private,
    /// Never a handler: the text says what it is.
    Special(&'static str),
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::Special(what) => what,
        })
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, class: Class) -> (u32, u8, Class) {
    (Ipv4Addr::new(a, b, c, d).to_bits(), prefix, class)
}

/// The first range that fits decides; what fits none is public.
const V4: [(u32, u8, Class); 21] = [
    v4(0, 0, 0, 0, 8, Class::Special("an address of \"this network\"")),
    v4(10, 0, 0, 0, 8, Class::Private),
    v4(100, 100, 100, 200, 32, Class::Special("a cloud's metadata address")),
    v4(100, 64, 0, 0, 10, Class::Private),
    v4(127, 0, 0, 0, 8, Class::Loopback),
    v4(168, 63, 129, 16, 32, Class::Special("a cloud's metadata address")),
    v4(169, 254, 0, 0, 16, Class::Special("a link-local address (cloud metadata)")),
    v4(172, 16, 0, 0, 12, Class::Private),
    v4(192, 0, 0, 0, 24, Class::Special("a reserved address")),
    v4(192, 0, 2, 0, 24, Class::Special("a documentation address")),
    v4(192, 31, 196, 0, 24, Class::Special("a reserved address")),
    v4(192, 52, 193, 0, 24, Class::Special("a reserved address")),
    v4(192, 88, 99, 0, 24, Class::Special("a 6to4 relay address")),
    v4(192, 168, 0, 0, 16, Class::Private),
    v4(192, 175, 48, 0, 24, Class::Special("a reserved address")),
    v4(198, 18, 0, 0, 15, Class::Special("a benchmarking address")),
    v4(198, 51, 100, 0, 24, Class::Special("a documentation address")),
    v4(203, 0, 113, 0, 24, Class::Special("a documentation address")),
    v4(224, 0, 0, 0, 4, Class::Special("a multicast address")),
    v4(255, 255, 255, 255, 32, Class::Special("the broadcast address")),
    v4(240, 0, 0, 0, 4, Class::Special("a reserved address")),
];

const fn v6(head: [u16; 3], last: u16, prefix: u8, class: Class) -> (u128, u8, Class) {
    let [a, b, c] = head;
    (Ipv6Addr::new(a, b, c, 0, 0, 0, 0, last).to_bits(), prefix, class)
}

/// The first range that fits decides; what fits none is not in use.
const V6: [(u128, u8, Class); 18] = [
    v6([0, 0, 0], 0, 128, Class::Special("the unspecified address")),
    v6([0, 0, 0], 1, 128, Class::Loopback),
    v6([0, 0, 0], 0, 96, Class::Special("an IPv4-compatible address")),
    v6([0x64, 0xff9b, 1], 0, 48, Class::Special("a local NAT64 address")),
    v6([0x100, 0, 0], 0, 64, Class::Special("a discard-only address")),
    v6([0x2001, 0, 0], 0, 32, Class::Special("a Teredo address")),
    v6([0x2001, 0, 0], 0, 23, Class::Special("a reserved address")),
    v6([0x2001, 0xdb8, 0], 0, 32, Class::Special("a documentation address")),
    v6([0x2002, 0, 0], 0, 16, Class::Special("a 6to4 address")),
    v6([0x3ffe, 0, 0], 0, 16, Class::Special("a 6bone address")),
    v6([0x3fff, 0, 0], 0, 20, Class::Special("a documentation address")),
    v6([0x2000, 0, 0], 0, 3, Class::Public),
    v6([0x5f00, 0, 0], 0, 16, Class::Special("a segment routing address")),
    v6([0xfd00, 0xec2, 0], 0x254, 128, Class::Special("a cloud's metadata address")),
    v6([0xfc00, 0, 0], 0, 7, Class::Private),
    v6([0xfe80, 0, 0], 0, 10, Class::Special("a link-local address")),
    v6([0xfec0, 0, 0], 0, 10, Class::Special("a site-local address")),
    v6([0xff00, 0, 0], 0, 8, Class::Special("a multicast address")),
];

/// The class of an address. An IPv4 address in IPv6's clothes is judged as what it is.
#[must_use]
pub fn class(address: IpAddr) -> Class {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let fits = |(net, prefix, _): &&(u32, u8, Class)| {
                (ip.to_bits() ^ net).checked_shr(32 - u32::from(*prefix)).unwrap_or(0) == 0
            };
            V4.iter().find(fits).map_or(Class::Public, |(_, _, class)| *class)
        }
        IpAddr::V6(ip) => {
            // NAT64, as networks without IPv4 use it: leads to the IPv4 address at its end.
            if let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = ip.segments() {
                let inner = Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low));
                return match class(IpAddr::V4(inner)) {
                    Class::Public => Class::Public,
                    _ => Class::Special("a NAT64 address of something that is not public"),
                };
            }
            let fits = |(net, prefix, _): &&(u128, u8, Class)| {
                (ip.to_bits() ^ net).checked_shr(128 - u32::from(*prefix)).unwrap_or(0) == 0
            };
            let unused = Class::Special("an address that is not in use");
            V6.iter().find(fits).map_or(unused, |(_, _, class)| *class)
        }
    }
}

/// A range of addresses, written `10.1.0.0/16`, `fd12::/64`, or one address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    prefix: u8,
}

impl Net {
    fn contains(self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let rest = 32 - u32::from(self.prefix);
                (a.to_bits() ^ b.to_bits()).checked_shr(rest).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let rest = 128 - u32::from(self.prefix);
                (a.to_bits() ^ b.to_bits()).checked_shr(rest).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Net {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a range of addresses such as 10.1.0.0/16");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let widest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|p| *p <= widest).ok_or_else(wrong)?,
            None => widest,
        };
        Ok(Self { address, prefix })
    }
}

/// What handlers may be called. The default is the strictest: https to public addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    /// Whether `http` will do.
    pub allow_http: bool,
    /// Whether handlers may be on this machine.
    pub allow_loopback: bool,
    /// Whether handlers may be in private networks.
    pub allow_private: bool,
    /// Ranges that are allowed whatever they are.
    pub allow: Vec<Net>,
    /// Ports of the gateway and its Postgres. On them nothing but public and listed addresses is
    /// called, so that a handler's URL never leads back into the house.
    pub own_ports: Vec<u16>,
}

/// Why an address or a URL must not be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// Not a URL.
    #[error("this is not a URL: {0}")]
    NotAUrl(String),
    /// Another scheme than the ones allowed.
    #[error("a handler's URL begins with {expected}, not with {got}")]
    Scheme {
        /// What it begins with.
        got: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// It has a user name or password in it.
    #[error("a handler's URL must not have a user name or password in it")]
    Userinfo,
    /// It has no host, or port 0.
    #[error("a handler's URL needs a host, and no port 0")]
    NoHost,
    /// An address that handlers must not have.
    #[error("{address} is {class}, which handlers must not have here")]
    Address {
        /// The address.
        address: IpAddr,
        /// What it is.
        class: Class,
    },
    /// A port of the gateway itself.
    #[error("{address} with this port is the gateway itself or its database")]
    Own {
        /// The address.
        address: IpAddr,
    },
}

impl Blocked {
    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> &'static str {
        match self {
            Self::NotAUrl(_) | Self::NoHost => "give a URL such as https://example.com/stepwell",
            Self::Scheme { .. } => "use https; plain http is for development",
            Self::Userinfo => "use the signature, or headers of the endpoint, instead",
            Self::Address { class: Class::Special("an address of \"this network\""), .. } => {
                "0.0.0.0 is where a server listens; to call it use 127.0.0.1 or its name"
            }
            Self::Address { class: Class::Loopback | Class::Private, .. } => {
                "use a public address, or let the gateway's operator allow this range"
            }
            Self::Address { .. } => "use another address",
            Self::Own { .. } => "use the port that the handler listens on",
        }
    }
}

impl Guard {
    /// For development: http, and handlers on this machine and in private networks.
    #[must_use]
    pub const fn dev() -> Self {
        Self {
            allow_http: true,
            allow_loopback: true,
            allow_private: true,
            allow: Vec::new(),
            own_ports: Vec::new(),
        }
    }

    /// Reads a handler's URL and checks all that can be known without asking DNS.
    pub fn url(&self, text: &str) -> Result<Url, Blocked> {
        if text.len() > MAX_URL {
            return Err(Blocked::NotAUrl(format!("it is longer than {MAX_URL} bytes")));
        }
        let url = Url::parse(text).map_err(|e| Blocked::NotAUrl(e.to_string()))?;
        self.check(&url)?;
        Ok(url)
    }

    /// Checks a URL before each use. A name's addresses are checked when they are known.
    pub fn check(&self, url: &Url) -> Result<(), Blocked> {
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            other => {
                let expected = if self.allow_http { "http:// or https://" } else { "https://" };
                return Err(Blocked::Scheme { got: format!("{other}:"), expected });
            }
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Blocked::Userinfo);
        }
        if url.port() == Some(0) {
            return Err(Blocked::NoHost);
        }
        let own = self.is_own(url);
        match url.host() {
            None => Err(Blocked::NoHost),
            Some(Host::Domain(_)) => Ok(()),
            Some(Host::Ipv4(ip)) => self.admit(ip.into(), own),
            Some(Host::Ipv6(ip)) => self.admit(ip.into(), own),
        }
    }

    /// Whether a URL has one of the gateway's own ports.
    #[must_use]
    pub fn is_own(&self, url: &Url) -> bool {
        url.port_or_known_default().is_some_and(|port| self.own_ports.contains(&port))
    }

    /// Whether an address may be connected to; `own` if the port is one of the gateway's.
    pub fn admit(&self, address: IpAddr, own: bool) -> Result<(), Blocked> {
        if self.allow.iter().any(|net| net.contains(address.to_canonical())) {
            return Ok(());
        }
        match class(address) {
            Class::Public => Ok(()),
            Class::Loopback if self.allow_loopback && !own => Ok(()),
            Class::Private if self.allow_private && !own => Ok(()),
            Class::Loopback if self.allow_loopback => Err(Blocked::Own { address }),
            Class::Private if self.allow_private => Err(Blocked::Own { address }),
            class => Err(Blocked::Address { address, class }),
        }
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
mod tests;

//! The configuration of the control API, which cannot change while the balancer runs. Plain values.

use super::values::{Show, parse_host, parse_port};
use std::fmt;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The address of the control API if none is given.
pub const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9190);
/// The longest token, in bytes: it must fit into a request head.
const MAX_TOKEN_BYTES: usize = 4096;

/// The address of the control API as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Admin {
    /// The default address, without which the balancer starts if it is taken.
    #[default]
    Default,
    /// None.
    Off,
    /// An address or name that was asked for.
    At {
        /// The host; an IPv6 address without its brackets.
        host: String,
        /// The port; 0 takes a free one.
        port: u16,
    },
}

/// The ways to the control API, with names resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlBoot {
    /// The admin port, if there is one.
    pub admin: Option<AdminPort>,
    /// The requests that the data port forwards to the control API, if any.
    pub on_data_port: Option<DataPortControl>,
    /// The token that requests must have, if any.
    pub token: Option<Token>,
}

/// The listening addresses of the control API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminPort {
    /// The addresses; port 0 takes a free port.
    pub addresses: Vec<SocketAddr>,
    /// The name as it was configured, which requests may have in Host.
    pub host: Option<String>,
    /// Whether the balancer starts without it if it cannot listen there.
    pub is_optional: bool,
}

/// The requests that reach the control API through the data port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPortControl {
    /// GET and HEAD, from any client.
    Read,
    /// All, by the rules of the admin port.
    All,
}

/// A secret that authorises requests. Its `Debug` form is masked.
#[derive(Clone)]
pub struct Token(Box<str>);

impl Admin {
    /// Parses `HOST:PORT` or `off`. The error names the right form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not HOST:PORT; write it like {DEFAULT_ADMIN}, or off");
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let host = parse_host(host).map_err(|_| bad())?;
        let port = parse_port(port).map_err(|_| bad())?;
        Ok(Self::At { host: host.trim_matches(['[', ']']).to_owned(), port })
    }
}

impl Show for Admin {
    fn show(&self) -> Option<String> {
        match self {
            // Another form would be an address that was asked for.
            Self::Default => None,
            Self::Off => Some("off".to_owned()),
            Self::At { host, port } if host.contains(':') => Some(format!("[{host}]:{port}")),
            Self::At { host, port } => Some(format!("{host}:{port}")),
        }
    }
}

impl DataPortControl {
    /// The names of its values, and of none.
    pub const NAMES: &[&str] = &["read", "all", "off"];

    /// Parses one of the names.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        match text.to_ascii_lowercase().as_str() {
            "read" => Ok(Some(Self::Read)),
            "all" => Ok(Some(Self::All)),
            "off" => Ok(None),
            _ => Err(format!("`{text}` is none of: {}", Self::NAMES.join(", "))),
        }
    }
}

impl Show for DataPortControl {
    fn show(&self) -> Option<String> {
        let name = match self {
            Self::Read => "read",
            Self::All => "all",
        };
        Some(name.to_owned())
    }
}

impl PartialEq for Token {
    /// In a time that depends on the lengths alone.
    fn eq(&self, other: &Self) -> bool {
        self.is(other.0.as_bytes())
    }
}

impl Eq for Token {}

impl AdminPort {
    /// The default address, without which the balancer starts if it is taken.
    pub fn optional() -> Self {
        Self { is_optional: true, ..Self::at(DEFAULT_ADMIN) }
    }

    /// An address that was asked for.
    pub fn at(address: SocketAddr) -> Self {
        Self { addresses: vec![address], host: None, is_optional: false }
    }
}

impl Token {
    /// A token, without the space around it. The error has neither subject nor secret.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text.trim() {
            "" => Err("is empty; put a long random token there"),
            token if token.len() > MAX_TOKEN_BYTES => Err("is longer than 4096 bytes"),
            token if !token.bytes().all(|byte| byte.is_ascii_graphic()) => Err(
                "has a space, a control character or a letter outside of ASCII inside the token",
            ),
            token => Ok(Self(token.into())),
        }
    }

    /// The token itself, for a client; must not be logged.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Whether this is the token. The time that it takes depends on the lengths alone.
    pub fn is(&self, candidate: &[u8]) -> bool {
        let pairs = self.0.as_bytes().iter().zip(candidate);
        let differing = pairs.fold(0, |bits, (ours, theirs)| black_box(bits | (ours ^ theirs)));
        black_box(differing) == 0 && self.0.len() == candidate.len()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_trimmed_and_compared_as_a_whole() {
        let token = Token::parse(" s3cret\n").unwrap();
        assert!(token.is(b"s3cret"));
        for other in ["", "s", "s3cre", "s3cret1", "s3creT", "S3cret"] {
            assert!(!token.is(other.as_bytes()), "{other}");
        }
        for bad in ["", " \n", "a b", "a\u{1}", "\u{e9}", &"x".repeat(MAX_TOKEN_BYTES + 1)] {
            assert!(Token::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_is_masked() {
        let boot = ControlBoot { token: Token::parse("s3cret").ok(), ..ControlBoot::default() };
        assert!(!format!("{boot:?}").contains("s3cret"));
    }
}

//! The sinks of audit records other than standard output: the file ([`file`]) and syslog.
//!
//! Syslog messages follow RFC 5424 and are sent to this machine only, since they are not encrypted. A sink reports a failure
//! as an error of its write; the writing thread decides whether it tries again.

use std::{
    io::{self, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use crate::time::Timestamp;

pub(super) mod file;
pub(super) mod maintenance;
pub(super) mod names;

/// How long a connect or a write may take before the syslog receiver counts as failed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// The priority of each message: facility authpriv (10), severity informational (6), by RFC 5424 section 6.2.1.
const PRIORITY: u8 = 10 * 8 + 6;

/// The address of a syslog receiver on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogAddress {
    /// A datagram socket, such as `/dev/log`.
    Unix(PathBuf),
    /// UDP, one datagram for each record (RFC 5426).
    Udp(SocketAddr),
    /// TCP, each record preceded by its length (RFC 6587 section 3.4.1).
    Tcp(SocketAddr),
}

impl FromStr for SyslogAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected \"unix:/dev/log\", \"udp:127.0.0.1:514\" or \"tcp:127.0.0.1:601\": records travel in the clear, so only to this machine";
        let local = |text: &str| {
            let address: SocketAddr = text.parse().map_err(|_| EXPECTED)?;
            if address.ip().is_loopback() { Ok(address) } else { Err(EXPECTED) }
        };
        match text.split_once(':') {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("udp", address)) => local(address).map(Self::Udp),
            Some(("tcp", address)) => local(address).map(Self::Tcp),
            _ => Err(EXPECTED),
        }
    }
}

/// Sends lines as syslog messages. It connects with the first line, and again after a failure.
pub(super) struct Syslog {
    address: SyslogAddress,
    host: String,
    connection: Option<Connection>,
    message: Vec<u8>,
}

enum Connection {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Syslog {
    pub(super) fn new(address: SyslogAddress) -> Self {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let plain = |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        let host = host.filter(plain).unwrap_or_else(|| "-".into());
        Self { address, host, connection: None, message: Vec::new() }
    }

    fn connect(&self) -> io::Result<Connection> {
        Ok(match &self.address {
            SyslogAddress::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
                socket.connect(path)?;
                Connection::Unix(socket)
            }
            SyslogAddress::Udp(address) => {
                let any = if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
                socket.connect(address)?;
                Connection::Udp(socket)
            }
            SyslogAddress::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, WRITE_TIMEOUT)?;
                stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
                Connection::Tcp(stream)
            }
        })
    }

    fn send(&mut self, line: &[u8]) -> io::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let time = jiff::Timestamp::from_millisecond(
            i64::try_from(Timestamp::now().as_millis()).unwrap_or_default(),
        )
        .unwrap_or_default();
        let (message, host, process) = (&mut self.message, &self.host, std::process::id());
        message.clear();
        write!(message, "<{PRIORITY}>1 {time:.3} {host} identity-spoa {process} audit - ")?;
        message.extend_from_slice(line);
        match &mut connection {
            Connection::Unix(socket) => socket.send(message).map(drop),
            Connection::Udp(socket) => socket.send(message).map(drop),
            Connection::Tcp(stream) => {
                let length = format!("{} ", message.len());
                stream.write_all(length.as_bytes()).and_then(|()| stream.write_all(message))
            }
        }?;
        // After a failure the connection is dropped: a stream with half a message cannot continue.
        self.connection = Some(connection);
        Ok(())
    }
}

impl Write for Syslog {
    /// Sends the first line. The caller continues with the rest, as the length that is returned tells it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
        if let Some(line) = bytes.get(..end).filter(|line| !line.is_empty()) {
            self.send(line)?;
        }
        Ok(bytes.len().min(end + 1))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::TcpListener};

    use super::*;

    const LINES: &[u8] = b"{\"seq\":1}\n{\"seq\":2}\n";

    fn is_message(message: &str, line: &str) -> bool {
        let (head, body) = message.split_once(" audit - ").unwrap();
        let parts: Vec<_> = head.split(' ').collect();
        parts[0] == "<86>1"
            && parts[1].parse::<jiff::Timestamp>().is_ok()
            && parts[3] == "identity-spoa"
            && body == line
    }

    #[test]
    fn records_are_messages_of_rfc_5424() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let unix = UnixDatagram::bind(&path).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = SyslogAddress::Udp(udp.local_addr().unwrap());
        let mut buffer = [0; 9000];
        Syslog::new(SyslogAddress::Unix(path)).write_all(LINES).unwrap();
        Syslog::new(address).write_all(LINES).unwrap();
        for seq in [1, 2] {
            let line = format!("{{\"seq\":{seq}}}");
            let read = unix.recv(&mut buffer).unwrap();
            assert!(is_message(std::str::from_utf8(&buffer[..read]).unwrap(), &line));
            let read = udp.recv(&mut buffer).unwrap();
            assert!(is_message(std::str::from_utf8(&buffer[..read]).unwrap(), &line));
        }
    }

    #[test]
    fn a_stream_counts_the_bytes_of_each_message() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = SyslogAddress::Tcp(listener.local_addr().unwrap());
        let mut syslog = Syslog::new(address);
        syslog.write_all(LINES).unwrap();
        drop(syslog);
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        let mut rest = text.as_str();
        for seq in [1, 2] {
            let (length, after) = rest.split_once(' ').unwrap();
            let (message, after) = after.split_at(length.parse().unwrap());
            assert!(is_message(message, &format!("{{\"seq\":{seq}}}")), "{message}");
            rest = after;
        }
        assert_eq!(rest, "");
    }

    #[test]
    fn records_go_in_the_clear_to_this_machine_only() {
        let parse = str::parse::<SyslogAddress>;
        assert_eq!(parse("unix:/dev/log"), Ok(SyslogAddress::Unix("/dev/log".into())));
        assert!(parse("udp:127.0.0.1:514").is_ok() && parse("tcp:[::1]:601").is_ok());
        for bad in ["udp:10.0.0.1:514", "tcp:logs.example.com:601", "unix:log", "/dev/log", "x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_receiver_that_comes_back_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut syslog = Syslog::new(SyslogAddress::Unix(path.clone()));
        assert!(syslog.write(LINES).is_err());
        let receiver = UnixDatagram::bind(&path).unwrap();
        assert_eq!(syslog.write(LINES).unwrap(), 10);
        drop(receiver);
        std::fs::remove_file(&path).unwrap();
        assert!(syslog.write(LINES).is_err());
        let _receiver = UnixDatagram::bind(&path).unwrap();
        assert_eq!(syslog.write(LINES).unwrap(), 10);
    }
}

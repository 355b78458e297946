//! An HTTP client that sends exactly the bytes it is given, over TCP or TLS. Sizes and times of responses are limited.
//!
//! Ordinary clients refuse to send what the self-test has to send: malformed and contradictory requests.

use std::{io, path::Path, sync::Arc};

use anyhow::Context as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    },
};
use url::Url;

use super::RESPONSE_TIMEOUT;

/// The longest head of a response, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The longest body of a response, in bytes.
const MAX_BODY: usize = 256 * 1024;

/// How the certificate of the gate is checked.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'p> {
    /// By the authorities of this machine.
    System,
    /// By the authorities in a PEM file.
    File(&'p Path),
    /// Not at all (`--insecure`).
    Unverified,
}

/// How to connect to the gate.
pub struct Client {
    address: (String, u16),
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// One connection.
pub struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

/// A response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The status line and headers, in lower case.
    pub head: String,
    /// The body. Bytes that are not text are replaced, since it is only searched.
    pub body: String,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Reply {
    /// The value of a header, in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value.trim())
    }
}

impl Client {
    /// Prepares connections to an `http` or `https` address. `host` is the name that the certificate must have.
    ///
    /// # Errors
    /// The address is of another kind, or the file of authorities cannot be read.
    pub fn new(url: &Url, host: &str, trust: Trust<'_>) -> anyhow::Result<Self> {
        let name = url.host_str().context("expected an address such as https://gate:8443")?;
        let port = url.port_or_known_default().context("the address needs a port")?;
        let tls = match url.scheme() {
            "http" => None,
            "https" => {
                // A host can have a port, and names of certificates have none.
                let bare = host.split(':').next().unwrap_or(host).to_owned();
                let name =
                    ServerName::try_from(bare).context("--host is not the name of a host")?;
                Some((TlsConnector::from(Arc::new(config(trust)?)), name))
            }
            other => anyhow::bail!("expected http or https, found {other}"),
        };
        let address = (name.trim_matches(['[', ']']).to_owned(), port);
        Ok(Self { address, tls })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The gate does not listen there, or its certificate is not valid.
    pub async fn connect(&self) -> io::Result<Connection> {
        let connect = async {
            let (host, port) = &self.address;
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            let stream: Box<dyn Stream> = match &self.tls {
                Some((tls, name)) => Box::new(tls.connect(name.clone(), stream).await?),
                None => Box::new(stream),
            };
            Ok(Connection { stream, buffer: Vec::new() })
        };
        timeout(RESPONSE_TIMEOUT, connect).await?
    }
}

impl Connection {
    /// Sends bytes and reads one response; `None` if the connection ends without one.
    ///
    /// # Errors
    /// There is no response in time, or it is not HTTP.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<Option<Reply>> {
        // A gate that refuses can close before it has read everything.
        let _ = self.stream.write_all(request).await;
        let _ = self.stream.flush().await;
        timeout(RESPONSE_TIMEOUT, self.read()).await?
    }

    async fn read(&mut self) -> io::Result<Option<Reply>> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(io::Error::other("the head of the response is longer than 64 KiB"));
            }
            if self.more().await? == 0 {
                return Ok(None);
            }
        };
        // What follows the head is the body, or the next response.
        let rest = self.buffer.split_off(end);
        let head = String::from_utf8_lossy(&std::mem::replace(&mut self.buffer, rest)).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("the response is not HTTP"))?;
        let head = head.to_ascii_lowercase();
        let mut reply = Reply { status, head, body: String::new() };
        let length = reply.header("content-length").and_then(|length| length.parse().ok());
        let chunked = reply.header("transfer-encoding").is_some();
        let body = match length {
            Some(length) => self.take(length).await?,
            None if chunked => self.chunks().await?,
            None => Vec::new(),
        };
        reply.body = String::from_utf8_lossy(&body).into_owned();
        Ok(Some(reply))
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        // A gate that is not ours could send any amount.
        if length > MAX_BODY {
            return Err(io::Error::other("the body of the response is longer than 256 KiB"));
        }
        while self.buffer.len() < length {
            if self.more().await? == 0 {
                break;
            }
        }
        let rest = self.buffer.split_off(length.min(self.buffer.len()));
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
            if body.len().saturating_add(size) > MAX_BODY {
                return Err(io::Error::other("the body of the response is longer than 256 KiB"));
            }
            let chunk = self.take(size).await?;
            body.extend_from_slice(&chunk);
            // A line end follows each chunk, also the last one. Trailers are not expected.
            self.line().await?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let rest = self.buffer.split_off(end + 2);
                let line = std::mem::replace(&mut self.buffer, rest);
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.buffer.len() > MAX_HEAD || self.more().await? == 0 {
                return Err(io::Error::other("the body of the response breaks off"));
            }
        }
    }

    async fn more(&mut self) -> io::Result<usize> {
        match self.stream.read_buf(&mut self.buffer).await {
            // A connection that breaks counts as one that was closed.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset
                        | io::ErrorKind::BrokenPipe
                        | io::ErrorKind::UnexpectedEof
                ) =>
            {
                Ok(0)
            }
            read => read,
        }
    }
}

fn config(trust: Trust<'_>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    Ok(match trust {
        Trust::System => {
            let verifier = rustls_platform_verifier::Verifier::new(provider)?;
            let verifier = Arc::new(verifier);
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
        Trust::File(path) => {
            let what = || format!("cannot read the certificates in {}", path.display());
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(path).with_context(what)? {
                roots.add(certificate.with_context(what)?).with_context(what)?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Trust::Unverified => {
            let verifier = Arc::new(Unverified(provider));
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    })
}

/// Accepts every certificate (`--insecure`).
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

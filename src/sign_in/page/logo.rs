//! The operator's logo, read once and served to browsers.

use std::path::Path;

use axum::{
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
    response::{IntoResponse as _, Response},
};

use super::{PagesError, protect};

/// The largest logo, in bytes.
pub(super) const MAX_LOGO: u64 = 256 * 1024;
/// An SVG can contain scripts. Opened by itself, it must not run them at the login host.
const LOGO_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'";

/// The image and its media type.
pub(super) struct Logo {
    kind: &'static str,
    bytes: Vec<u8>,
}

impl Logo {
    /// Reads a PNG or SVG, which both its name and its content must be.
    pub(super) fn load(path: &Path) -> Result<Self, PagesError> {
        if std::fs::metadata(path)?.len() > MAX_LOGO {
            return Err(PagesError::LogoSize);
        }
        let bytes = std::fs::read(path)?;
        let kind = match path.extension().and_then(|extension| extension.to_str()) {
            Some("png") if bytes.starts_with(b"\x89PNG\r\n\x1a\n") => "image/png",
            Some("svg") if std::str::from_utf8(&bytes).is_ok_and(|text| text.contains("<svg")) => {
                "image/svg+xml"
            }
            _ => return Err(PagesError::LogoKind),
        };
        Ok(Self { kind, bytes })
    }

    pub(super) fn response(&self) -> Response {
        let mut response = self.bytes.clone().into_response();
        let headers = response.headers_mut();
        protect(headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(LOGO_POLICY));
        response
    }
}

//! Writes long lists as a stream of parts.
//!
//! A list of a hundred thousand workspaces built as one value would block a thread for a second and take hundreds of MiB. Here
//! it takes the memory of one part, other tasks run between the parts, and the list is built only as fast as it is read.

use axum::{
    body::Body,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

/// How many items a part has.
const PART: usize = 128;

/// The reply `{"NAME":[…]}`. If an item cannot be written, the reply breaks off, so that the client notices.
pub(super) fn list<T: Serialize + 'static>(
    name: &'static str,
    items: impl Iterator<Item = T> + Send + 'static,
) -> Response {
    let parts = stream::iter(parts(name, items)).then(|part| async move {
        tokio::task::yield_now().await;
        part
    });
    ([(CONTENT_TYPE, "application/json")], Body::from_stream(parts)).into_response()
}

fn parts<T: Serialize>(
    name: &'static str,
    mut items: impl Iterator<Item = T>,
) -> impl Iterator<Item = serde_json::Result<Vec<u8>>> {
    let mut begun = false;
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut part = Vec::new();
        if !begun {
            part.extend_from_slice(format!("{{\"{name}\":[").as_bytes());
        }
        for _ in 0..PART {
            let Some(item) = items.next() else {
                ended = true;
                part.extend_from_slice(b"]}");
                break;
            };
            if begun {
                part.push(b',');
            }
            begun = true;
            if let Err(error) = serde_json::to_writer(&mut part, &item) {
                ended = true;
                return Some(Err(error));
            }
        }
        Some(Ok(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_one_list_of_all_items_however_many_there_are() {
        for count in [0, 1, PART - 1, PART, PART + 1, 3 * PART, 1000] {
            let all: Vec<_> = (0..count).collect();
            let written: Vec<_> =
                parts("all", all.clone().into_iter()).map(Result::unwrap).collect();
            assert_eq!(
                serde_json::from_slice::<serde_json::Value>(&written.concat()).unwrap(),
                serde_json::json!({ "all": all })
            );
            assert!(written.iter().all(|part| part.len() < 10 * PART));
        }
    }
}

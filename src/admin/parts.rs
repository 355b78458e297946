//! Long lists, made and written a part at a time.
//!
//! A list of a hundred thousand workspaces as one value would take a second of a thread and hundreds of MiB. Here it
//! takes the memory of a part, the thread does other work after each, and it is made no faster than it is read.

use axum::{
    body::Body,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

/// Items of a part.
const PART: usize = 128;

/// `{"NAME":[…]}`. An item that cannot be written ends the answer before its end, which its reader notices.
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

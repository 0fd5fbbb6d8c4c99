//! Any text as the name of a topic and of a subscription: it is taken as it is, or
//! refused as a name.

use millstream::error::{OpenError, RemoveError, SubscribeError};
use millstream::{MAX_NAME_LEN, PublishError};

use super::{check_books, check_text, manual};

/// The grammar, said in another way than the engine says it.
fn is_a_name(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let mut levels = text.split('.');
    text.len() <= MAX_NAME_LEN && levels.all(|level| !level.is_empty() && level.bytes().all(fine))
}

pub fn fuzz(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    if is_a_name(text) {
        check_accepted(text);
    } else {
        check_refused(text);
    }
}

fn check_accepted(name: &str) {
    let (broker, _) = manual();
    let topic = broker.topic::<u8>(name).open().expect(name);
    assert_eq!(topic.name(), name);
    let taken = name.to_owned();
    let same = name.to_owned();
    let sub = topic.subscribe(name, move |delivery| {
        assert_eq!(
            (delivery.topic(), delivery.subscription()),
            (&*same, &*same)
        );
        Ok(())
    });
    let sub = sub.expect(name);
    assert_eq!(sub.name(), name);

    let again = topic.subscribe(name, |_| Ok(())).expect_err(name);
    check_text(&again);
    assert_eq!(again, SubscribeError::NameTaken { name: taken });
    let mistyped = broker.topic::<u16>(name).open().expect_err(name);
    check_text(&mistyped);
    assert!(matches!(mistyped, OpenError::WrongType { topic, .. } if topic == name));
    let clashing = broker.topic::<u8>(name).capacity(1).open().expect_err(name);
    check_text(&clashing);
    assert!(matches!(clashing, OpenError::Clash { .. }));

    broker.publish(name, 1_u8).expect(name);
    broker.run_until_idle();
    let metrics = check_books(&broker);
    let lane = metrics.topic(name).and_then(|it| it.subscription(name));
    assert_eq!(lane.expect(name).counts.delivered, 1);

    let used = broker.remove_topic(name).expect_err(name);
    check_text(&used);
    assert!(matches!(used, RemoveError::InUse { .. }));
    drop((topic, sub));
    broker.run_until_idle();
    broker.remove_topic(name).expect(name);
}

fn check_refused(text: &str) {
    let (broker, _) = manual();
    let error = broker.topic::<u8>(text).open().expect_err(text);
    check_text(&error);
    let OpenError::Name(why) = error else {
        panic!("{text:?}: {error:?}");
    };
    let topic = broker.topic::<u8>("fine").open().expect("a fine name");
    let error = topic.subscribe(text, |_| Ok(())).expect_err(text);
    assert_eq!(error, SubscribeError::Name(why), "{text:?}");
    let unknown = broker.publish(text, 1_u8);
    assert!(matches!(unknown, Err(PublishError::UnknownTopic(1))));
    assert_eq!(broker.remove_topic(text), Err(RemoveError::Unknown));
    assert_eq!(check_books(&broker).topics.len(), 1);
}

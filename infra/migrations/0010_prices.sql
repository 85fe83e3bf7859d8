-- More ways to charge: volume and package prices, free allowances, minimum commitments, discounts, and prices of
-- one tenant's own.

ALTER TABLE billing.price_version
    ADD COLUMN tenant_id text REFERENCES billing.account,  -- NULL: everyone's on the plan
    ADD COLUMN minimum_nanos bigint NOT NULL DEFAULT 0 CHECK (minimum_nanos >= 0),
    ADD COLUMN discount_ppm int NOT NULL DEFAULT 0 CHECK (discount_ppm BETWEEN 0 AND 1000000),
    DROP CONSTRAINT price_version_plan_currency_valid_from_key,
    ADD UNIQUE NULLS NOT DISTINCT (plan, currency, tenant_id, valid_from);

ALTER TABLE billing.meter_price
    ADD COLUMN model text NOT NULL DEFAULT 'graduated'
        CHECK (model IN ('per_unit', 'graduated', 'volume', 'package')),
    ADD COLUMN free_units bigint NOT NULL DEFAULT 0 CHECK (free_units >= 0);

-- As in 0003, for prices that caps in money can be kept on: per unit and graduated. A free allowance is a first
-- tier that costs nothing.
CREATE OR REPLACE FUNCTION billing.meter_prices(version text)
RETURNS TABLE (meter text, scale numeric, nano numeric, up_to_units bigint[], nanos bigint[])
LANGUAGE sql STABLE AS $$
    SELECT price.meter, div(common.nano, price.per_units), common.nano,
           CASE WHEN price.free_units > 0 THEN price.free_units || tiers.up_to_units ELSE tiers.up_to_units END,
           CASE WHEN price.free_units > 0 THEN 0::bigint || tiers.nanos ELSE tiers.nanos END
    FROM billing.meter_price price
    CROSS JOIN (
        SELECT billing.product(per_units) AS nano FROM billing.meter_price WHERE price_version_id = version
    ) AS common
    CROSS JOIN LATERAL (
        SELECT array_agg(tier.up_to_units + price.free_units ORDER BY tier.tier) AS up_to_units,
               array_agg(tier.nanos ORDER BY tier.tier) AS nanos
        FROM billing.price_tier tier
        WHERE tier.price_version_id = version AND tier.meter = price.meter
    ) AS tiers
    WHERE price.price_version_id = version
$$;
